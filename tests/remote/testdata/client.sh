# client.sh SLOT CLIENT ROUNDS - as client.pl, with flock(1)
set -eu
exec 9<>"$1/apdu"
for _ in $(seq "$3"); do
	flock 9
	for n in 1 2 3; do
		printf '80EE000002%02X%02X\n' "$2" "$n" >&9
		IFS= read -r answer <&9
		[ "$answer" = "90 00" ] || { echo "$answer"; exit 1; }
	done
	flock -u 9
done
