"""Methods compared over seeds: from a Plan to the runs, their statistics and one report.

options makes a plan of flags; orchestration goes from it to the directory; measurement is one run;
workers and shards, many side by side; search chooses settings; results, statistics, together and
power say what came out; report, what a person reads. See README.md.
"""
