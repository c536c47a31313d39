// Says what each reader's card is, selects an applet on it, and ends when all were seen.
const pcsc = require("@pokusew/pcsclite")();
const [count, aid] = [Number(process.argv[2]), Buffer.from(process.argv[3], "hex")];
const said = [];

function done(reader, text) {
	said.push(`${reader.name}: ${text}`);
	if (said.length < count) return;
	console.log(said.sort().join("\n"));
	process.exit(0);
}

pcsc.on("error", err => { console.log("pcsc:", err.message); process.exit(1); });
pcsc.on("reader", reader => {
	reader.on("error", err => done(reader, err.message));
	reader.once("status", status => {
		if (!(status.state & reader.SCARD_STATE_PRESENT)) return done(reader, "empty");
		reader.connect({ share_mode: reader.SCARD_SHARE_SHARED }, (err, protocol) => {
			if (err) return done(reader, err.message);
			const select = Buffer.concat([Buffer.from([0, 0xA4, 4, 0, aid.length]), aid]);
			reader.transmit(select, 258, protocol, (err, answer) => {
				const got = err ? err.message : answer.toString("hex");
				reader.disconnect(reader.SCARD_LEAVE_CARD, err =>
					done(reader, `${status.atr.toString("hex")} protocol ${protocol} ${err ? err.message : got}`));
			});
		});
	});
});
