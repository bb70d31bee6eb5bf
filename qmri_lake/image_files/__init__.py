"""Images in files other than DICOM: NIfTI, NRRD, MetaImage and PAR/REC, in the axes of a lake."""
