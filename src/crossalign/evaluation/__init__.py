"""Methods on labelled datasets: ranks, statistics, tables, ablation and reproduction."""
