"""mmdet's model zoo, as its installed wheel describes it."""
