"""Generated head CTs in Kaggle's layout, for trying everything out without the competition's data."""
