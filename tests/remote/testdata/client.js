// client.js SLOT CLIENT ROUNDS - as client.pl
const fs = require("fs")
const [slot, client, rounds] = process.argv.slice(2)
const apdu = fs.openSync(slot + "/apdu", "r+"), hex = n => Number(n).toString(16).padStart(2, "0")
function say(line, want) {
	fs.writeSync(apdu, line + "\n")
	const b = Buffer.alloc(1000), answer = b.toString("latin1", 0, fs.readSync(apdu, b))
	if (answer !== want + "\n") throw new Error(line + ": " + answer)
}
for (let i = 0; i < rounds; i++) {
	say("lock", "ok")
	for (let n = 1; n <= 3; n++) say("80EE000002" + hex(client) + hex(n), "90 00")
	say("unlock", "ok")
}
