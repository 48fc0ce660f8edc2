# exchange.pl MODE TARGET DONOR: as a user without rights, opens TARGET by MODE (< or +<) and DONOR for reading and
# writing, and says "open". Then it tries what each line of its standard input names, and says
# "done" or why not:
#
#   exchange           the first 64 KiB of TARGET against those of DONOR (XFS_IOC_EXCHANGE_RANGE, 6.10)
#   exchange-reversed  the same, asked of DONOR
#   start              notes how fresh TARGET and DONOR are (XFS_IOC_START_COMMIT, 6.12)
#   commit             exchanges, if TARGET is as it was at "start" (XFS_IOC_COMMIT_RANGE, 6.12)
#   commit-reversed    the same, asked of DONOR
use strict;
use warnings;

my ($mode, $target_path, $donor_path) = @ARGV;
$) = '65534 65534';
($<, $>) = (65534, 65534);
$| = 1;
open(my $target, $mode, $target_path) or die "$target_path: $!";
open(my $donor, '+<', $donor_path) or die "$donor_path: $!";

# struct xfs_exchange_range, which is how struct xfs_commit_range begins: six words of freshness follow.
sub range { pack('l x4 Q4', fileno(shift), 0, 0, 65536, 0) }

my %freshness;
sub start {
    my $commit = "\0" x 88;
    my $done = ioctl($_[0], 0x80585882, $commit);
    $freshness{fileno($_[0])} = substr($commit, 40) if $done;
    return $done;
}

sub commit {
    my ($file, $other) = @_;
    my $commit = range($other) . ($freshness{fileno($file)} // "\0" x 48);
    return ioctl($file, 0x40585883, $commit);
}

my %ways = (
    exchange => sub { ioctl($target, 0x40285881, my $range = range($donor)) },
    'exchange-reversed' => sub { ioctl($donor, 0x40285881, my $range = range($target)) },
    start => sub { start($target) && start($donor) },
    commit => sub { commit($target, $donor) },
    'commit-reversed' => sub { commit($donor, $target) },
);

print "open\n";
while (my $way = <STDIN>) {
    chomp $way;
    print $ways{$way}->() ? "done\n" : "$!\n";
}
