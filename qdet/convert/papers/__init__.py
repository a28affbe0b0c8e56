"""The authors' tensor names, a file per paper. In: rename tables. Out: files, shapes, recognition."""
