"""Attribution of list decisions to the features of SAEs."""
