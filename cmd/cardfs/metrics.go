package main

import (
	"bufio"
	"fmt"
	"log"
	"net"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/metrics"
)

func newMetrics() *cobra.Command {
	var listen string
	cmd := &cobra.Command{
		Use:   "metrics",
		Short: "Print what was counted, for Prometheus",
		Long: `metrics prints the counters of all slots in Prometheus' text format, from their
status and stats files, as for node_exporter's textfile collector.

With --listen it serves them at http://HOST:PORT/metrics instead, until SIGTERM or
SIGINT. The files are read at each request. There is no authentication and no
encryption: whoever reaches the address reads the names of readers and what was
counted, so let it be 127.0.0.1, or one behind a proxy that asks for a password.
Port 0 is any free one; the address is printed when the port is open.

Of the mount: cardfs_up (0 while the mount is not there), cardfs_readers by driver,
cardfs_slots by state, cardfs_cards, cardfs_scrape_duration_seconds.

Of each slot, with the labels slot, reader, by_id, driver and host (the machine that has
the reader, empty for this one): cardfs_reader_ready, cardfs_card_present,
cardfs_card_powered, cardfs_sessions,
cardfs_transaction_held, cardfs_waiting_seconds; cardfs_exchanges_total,
cardfs_control_commands_total, cardfs_bytes_total (direction to_card, from_card),
cardfs_errors_total (errno), cardfs_resets_total (kind warm, cold),
cardfs_rate_fallbacks_total, cardfs_time_extensions_total,
cardfs_card_insertions_total, cardfs_card_removals_total,
cardfs_card_power_ups_total, cardfs_waits_total, cardfs_wait_seconds_total,
cardfs_opens_waited_total; the histograms cardfs_exchange_duration_seconds and
cardfs_open_duration_seconds. cardfs help files says what stats counts.

A slot's counters begin when its directory is there. metrics --listen adds what
a reader had counted when it was last looked at before it left, and came back to the
same number; rate() and increase() are right in both cases.`,
		Example: `  cardfs metrics | grep '^cardfs_exchanges_total'
  cardfs metrics >cardfs.prom.new && mv cardfs.prom.new cardfs.prom   # for node_exporter
  cardfs metrics --listen 127.0.0.1:9813 &
  sleep 1; curl -s http://127.0.0.1:9813/metrics | grep '^cardfs_up 1'
  kill $!`,
		Args:              args(0, 0, "metrics takes no argument"),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	dir := mountFlag(cmd)
	cmd.Flags().StringVar(&listen, "listen", "", "serve them by HTTP at `HOST:PORT` instead")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if listen != "" {
			if _, _, err := net.SplitHostPort(listen); err != nil {
				return exit.Usage("--listen %s: %w; an address is wanted, as 127.0.0.1:9813", listen, err)
			}
		}
		c, err := client.FindMount(*dir)
		if err != nil {
			return err
		}
		if listen == "" {
			out := bufio.NewWriter(cmd.OutOrStdout())
			if err := metrics.Write(out, c.Dir); err != nil {
				return c.Explain(err)
			}
			return out.Flush()
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		l, err := net.Listen("tcp", listen)
		if err != nil {
			return fmt.Errorf("--listen %s: %w", listen, err)
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "cardfs: metrics at http://%s/metrics\n", l.Addr())
		return metrics.Serve(ctx, l, c.Dir, log.New(cmd.ErrOrStderr(), "cardfs: ", 0))
	}
	return cmd
}
