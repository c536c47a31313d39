module github.com/cardfs/cardfs

go 1.26
