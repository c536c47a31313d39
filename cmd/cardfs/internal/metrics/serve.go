package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/expfmt"
)

// Write writes the metrics of the mount at dir, as they are now, in Prometheus' text format.
func Write(out io.Writer, dir string) error {
	c := New(dir)
	r := prometheus.NewRegistry()
	r.MustRegister(c)
	families, err := r.Gather()
	if c.err != nil {
		return c.err
	}
	if err != nil {
		return err
	}
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(out, f); err != nil {
			return err
		}
	}
	return nil
}

const page = `<!DOCTYPE html><title>cardfs</title><p>Smart-card readers: <a href="/metrics">metrics</a>
`

// patience is how long a client may take to send a request, and an answer under way to be
// finished at the end.
const patience = 10 * time.Second

// Serve answers /metrics with the metrics of the mount at dir until ctx ends.
func Serve(ctx context.Context, l net.Listener, dir string, errs *log.Logger) error {
	r := prometheus.NewRegistry()
	r.MustRegister(New(dir))
	mux := http.NewServeMux()
	// One after the other: two looks at the same time would only make both slower.
	mux.Handle("GET /metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{ErrorLog: errs}))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, page) })
	s := &http.Server{Handler: mux, ErrorLog: errs, ReadTimeout: patience, IdleTimeout: 5 * time.Minute, MaxHeaderBytes: 1 << 16}
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		enough, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		stopped <- s.Shutdown(enough)
	})
	err := s.Serve(l)
	if stop() || !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics at %s: %w", l.Addr(), err)
	}
	return <-stopped
}
