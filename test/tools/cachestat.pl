# cachestat.pl FILE: prints how many pages of a file are in memory (cachestat(2), Linux 6.5).
use strict;
use warnings;

open(my $file, '<', $ARGV[0]) or die "$ARGV[0]: $!";
# No length is all of the file; nr_cache is the first of five counts.
my ($range, $counts) = (pack('Q2', 0, 0), "\0" x 40);
syscall(451, fileno($file), $range, $counts, 0) == 0 or die "cachestat: $!";
print unpack('Q', $counts), "\n";
