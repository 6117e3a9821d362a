"""The workbook: from an empty file to a captioner made only of the learner's own code."""
