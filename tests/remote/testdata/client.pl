# client.pl SLOT CLIENT ROUNDS - sequences of three commands, each in a transaction
use strict;
my ($slot, $client, $rounds) = @ARGV;
open(my $apdu, '+<', "$slot/apdu") or die "$slot/apdu: $!";
sub say_ {
	my ($line, $want) = @_;
	syswrite($apdu, "$line\n") or die "$line: $!";
	sysread($apdu, my $answer, 1000) or die "$line: no answer";
	$answer eq "$want\n" or die "$line: $answer";
}
for (1 .. $rounds) {
	say_('lock', 'ok');
	say_(sprintf('80EE000002%02X%02X', $client, $_), '90 00') for 1 .. 3;
	say_('unlock', 'ok');
}
