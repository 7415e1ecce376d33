"""Jobs on a cluster, through kubectl: the user's own login, contexts and rights."""
