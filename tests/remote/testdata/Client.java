// Client.java SLOT CLIENT ROUNDS - as client.pl
import java.io.RandomAccessFile;
import java.nio.charset.StandardCharsets;

class Client {
	static RandomAccessFile apdu;

	static void say(String line, String want) throws Exception {
		apdu.write((line + "\n").getBytes(StandardCharsets.US_ASCII));
		byte[] b = new byte[1000];
		String answer = new String(b, 0, Math.max(0, apdu.read(b)), StandardCharsets.US_ASCII);
		if (!answer.equals(want + "\n"))
			throw new Exception(line + ": " + answer);
	}

	public static void main(String[] args) throws Exception {
		apdu = new RandomAccessFile(args[0] + "/apdu", "rw");
		for (int i = 0; i < Integer.parseInt(args[2]); i++) {
			say("lock", "ok");
			for (int n = 1; n <= 3; n++)
				say(String.format("80EE000002%02X%02X", Integer.parseInt(args[1]), n), "90 00");
			say("unlock", "ok");
		}
	}
}
