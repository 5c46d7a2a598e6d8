"""Files that `align new` copies: for each kind of part one that passes its checks. The class `Skeleton` and the file get other names."""
