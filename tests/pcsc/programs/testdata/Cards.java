import java.util.List;
import javax.smartcardio.Card;
import javax.smartcardio.CardChannel;
import javax.smartcardio.CardException;
import javax.smartcardio.CardTerminal;
import javax.smartcardio.CommandAPDU;
import javax.smartcardio.ResponseAPDU;
import javax.smartcardio.TerminalFactory;

/** Lists readers, and selects an applet on the card of each that has one, exclusively. */
public class Cards {
	public static void main(String[] args) throws Exception {
		List<CardTerminal> terminals = TerminalFactory.getDefault().terminals().list();
		for (CardTerminal terminal : terminals) {
			System.out.println(terminal.getName() + ": " + (terminal.isCardPresent() ? "card" : "empty"));
			if (!terminal.isCardPresent() || args.length == 0)
				continue;
			try {
				Card card = terminal.connect("*");
				System.out.println("  " + card.getProtocol() + " " + hex(card.getATR().getBytes()));
				card.beginExclusive();
				CardChannel channel = card.getBasicChannel();
				ResponseAPDU r = channel.transmit(new CommandAPDU(0x00, 0xA4, 0x04, 0x00, bytes(args[0]), 256));
				System.out.println("  " + hex(r.getBytes()));
				card.endExclusive();
				byte[] features = card.transmitControlCommand(0x42000D48, new byte[0]);
				System.out.println("  features " + hex(features));
				card.disconnect(true);
			} catch (CardException e) {
				System.out.println("  " + e + ", " + e.getCause());
			}
		}
		// Without a change: it ends by its time-out.
		System.out.println("change " + TerminalFactory.getDefault().terminals().waitForChange(100));
	}

	private static byte[] bytes(String hex) {
		byte[] b = new byte[hex.length() / 2];
		for (int i = 0; i < b.length; i++)
			b[i] = (byte) Integer.parseInt(hex.substring(2 * i, 2 * i + 2), 16);
		return b;
	}

	private static String hex(byte[] b) {
		StringBuilder s = new StringBuilder();
		for (byte x : b)
			s.append(String.format("%02X", x));
		return s.toString();
	}
}
