"""Many trainings that answer one question: shared by processes, taken up again after a kill, judged together."""
