"""The competition's size, and how often its labels occur: what the benchmarks simulate."""

SLICES, TRAIN_SLICES, TEST_SLICES = 874_035, 752_803, 121_232
# of the training set
STUDIES, PATIENTS = 21_744, 18_938
# of the training slices of stage 1, by subtype
PREVALENCE = {
    "epidural": 0.0041,
    "intraparenchymal": 0.0483,
    "intraventricular": 0.0352,
    "subarachnoid": 0.0476,
    "subdural": 0.0630,
}
