"""Detection of intracranial hemorrhage on head CT, from DICOM to a submission, and a trained detector for new studies.

A map of the package. Imports point downwards only: a line may import from the lines below it, never from one above
(checked by import-linter in the tests). docs/architecture.md has the picture.

    viewer       the local page to read studies in: a server for one machine
    report       one page about a run: data, training, discrimination, calibration, errors; pictures
    study        new studies: from files of any kind to a detector's answers
    detector     the trained thing: networks, second stage and recipe as one object and one folder
    synthetic    generated head CTs in Kaggle's layout
    pages        what pages are made of: templates, the viewer's scripts, one style sheet
    sequence     the second stage: networks over all slices of a series
    classify     the convolutional networks
    train        how anything here is trained; detector, sequence, classify and train alone import torch
    ensemble     predictions in, submission out
    preprocess   DICOM to table, image store and folds
    evaluate     the competition's metric; statistics by slice and study, with intervals over patients
    files        the pipeline's own files: image store, tables, predictions, embeddings
    dicom        the only reader and writer of DICOM: headers, pixels, archives, series, results
    ct           what a slice and a series mean: Hounsfield units, windows, geometry, order
    arguments    command lines
    config       conf/, checked; config_errors says what is wrong with it
    documents    text, YAML and JSON from outside: bounded and plain
    memory       how a process treats the memory of images
    progress     progress bars, or plain lines where there is no terminal
    text_table   tables in a terminal and in Markdown
    labels       the six labels, their weights, the ids of a submission's rows
    errors       a user's mistake, and how a command ends
"""

import os
import signal
import sys

__version__ = "0.1.0"  # recorded in results; a test compares it with the changelog's

# Threads of OpenMP spin while they wait for work, by default so long that processes that share cores starve each other.
# libgomp reads the variable once, when torch is imported, so it is set here, before anything can import torch; child
# processes (ranks, loaders, workers) inherit it. A user who sets either variable decides. docs/benchmarks.md: figures.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")

if sys.argv[:1] == ["-m"]:  # `python -m src...`: a command, whose imports take seconds
    # until errors.run_command has handlers that clean up, there is nothing to clean up
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(75))
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # which a script sets that sends SIGTERM in its place
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))
