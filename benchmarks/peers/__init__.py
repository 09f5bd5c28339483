"""Other Python job processors, each as its documentation sets it up for jobs that must not be lost."""
