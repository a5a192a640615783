"""The command line: every flag once, the frozen Config, parsing, exit codes.

fields has every flag; config, the frozen Config of their values; peer reads --peer; presets and
flagfiles, what files of flags say; effects, which flags have none; parsing, text to values;
command_line, how a command starts and ends.
"""
