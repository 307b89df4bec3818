"""From DICOM files to one table, one image store and one set of folds."""
