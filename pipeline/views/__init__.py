"""What a view is: crops, photometrics, backgrounds, and the random draws behind them."""
