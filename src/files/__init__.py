"""Where bytes meet disk: DICOM, the image store, tables, predictions. Every write is atomic."""
