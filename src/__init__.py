"""Detection of intracranial hemorrhage on head CT, from DICOM to a submission.

A map of the package. Imports point downwards only: a line may import from the lines below it, never from one above
(checked by import-linter in the tests).

    sample       generated head CTs in Kaggle's layout
    report       pictures for people
    sequence     the second stage: networks over all slices of a series, which import torch too
    ensemble     predictions in, submission out
    classify     the convolutional networks, and how anything here is trained: these two alone import torch
    preprocess   DICOM to table, image store and folds
    evaluate     the competition's metric; statistics by slice and study, with a bootstrap over patients
    files        where bytes meet disk: DICOM, image store, tables, predictions
    ct           what a CT slice means: Hounsfield units, windows, geometry
    arguments    command lines
    config       conf/, checked
    progress     progress bars, or plain lines where there is no terminal
    labels       the six labels, their weights, the ids of a submission's rows
    errors       a user's mistake, and how a command ends
"""
