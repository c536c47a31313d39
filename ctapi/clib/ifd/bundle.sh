#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# bundle.sh LIBRARY BUNDLE <IDS: makes the bundle by which pcscd's hotplug finds
# the IFD handler. IDS are lines "vvvv:pppp Name of the reader", as `cardfs ids`
# prints them; pcscd looks a device up by its IDs alone.
set -eu

library=$1 bundle=$2
here=$(dirname "$0")
contents=$bundle/Contents
mkdir -p "$contents/Linux"

awk -v template="$here/Info.plist.in" '
	/^[ \t]*(#|$)/ { next }
	!/^[0-9a-fA-F][0-9a-fA-F][0-9a-fA-F][0-9a-fA-F]:[0-9a-fA-F][0-9a-fA-F][0-9a-fA-F][0-9a-fA-F][ \t]+[^ \t]/ {
		printf "bundle.sh: line %d: \"%s\" is not \"vvvv:pppp Name\"\n", NR, $0 >"/dev/stderr"
		bad = 1
		exit 1
	}
	{
		id = substr($1, 1, 4)
		product = substr($1, 6, 4)
		name = $0
		sub(/^[^ \t]+[ \t]+/, "", name)
		gsub(/&/, "\\&amp;", name)
		gsub(/</, "\\&lt;", name)
		gsub(/>/, "\\&gt;", name)
		gsub(/[^ -~]/, "?", name) # pcscd wants ASCII
		vendors = vendors sep "\t\t<string>0x" id "</string>"
		products = products sep "\t\t<string>0x" product "</string>"
		names = names sep "\t\t<string>" name "</string>"
		sep = "\n"
	}
	END {
		if (bad)
			exit 1
		if (sep == "") {
			print "bundle.sh: no IDs" >"/dev/stderr"
			exit 1
		}
		while ((getline line <template) > 0)
			if (line == "@VENDORS@")
				print vendors
			else if (line == "@PRODUCTS@")
				print products
			else if (line == "@NAMES@")
				print names
			else
				print line
	}
' >"$contents/Info.plist.new" || { rm -f "$contents/Info.plist.new"; exit 1; }
mv "$contents/Info.plist.new" "$contents/Info.plist"
# A new file: a pcscd that has the old one mapped would die of its being overwritten.
cp "$library" "$contents/Linux/libifdcardfs.so.new"
mv "$contents/Linux/libifdcardfs.so.new" "$contents/Linux/libifdcardfs.so"
