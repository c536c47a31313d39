#!/bin/sh
# A pinentry for tests: it answers as a person would who has the passwords in the files of $PINS.
echo OK
while read -r word rest; do
	case $word in
	SETDESC | SETPROMPT) asked="$asked $rest" ;;
	GETPIN)
		case $asked in
		*Repeat*) ;;
		*"New Admin PIN"*) pin=new-admin ;;
		*"New PIN"*) pin=new-user ;;
		*"New Reset Code"*) pin=new-reset ;;
		*"Reset Code"*) pin=reset ;;
		*Admin*) pin=admin ;;
		*ssphrase*) pin=passphrase ;;
		*) pin=user ;;
		esac
		if [ -n "$pin" ]; then cp "$PINS/$pin" "$PINS/last"; fi
		echo "D $(cat "$PINS/last")"
		asked= pin= ;;
	BYE) echo OK; exit ;;
	esac
	echo OK
done
