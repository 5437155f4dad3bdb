"""Published benchmarks: what they ask, how their rules grade it without a judge, what they count.

Nothing here is a reward: no training path imports this package (a test says so).
"""
