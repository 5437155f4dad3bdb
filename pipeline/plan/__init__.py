"""What a run will cost before it is started: samples, tokens, bytes, time, GPU memory."""
