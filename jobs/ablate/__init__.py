"""`mstar-ray ablate`: tables of runs that differ in one setting."""
