"""Generated head CTs in Kaggle's layout, so that everything can be tried without the competition's data."""
