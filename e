warning: extrapolated beyond the runs behind the law epoch: 19.3 times the most parameters (16.2B), 20.2 times the most tokens (318B)
