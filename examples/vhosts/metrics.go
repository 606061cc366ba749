package main

import (
	"crypto/sha256"
	"encoding/hex"

	prom "github.com/prometheus/client_golang/prometheus"

	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/health/prometheus"
	"github.com/stickylb/stickylb/wsproxy"
)

// Metrics has the metrics of the vhosts in use, up to a limit: thousands of vhosts would make
// hundreds of thousands of time series.
type metrics struct {
	*prom.Registry
	max        int
	vhosts     prom.Gauge
	collectors map[*vhost]func() // removes a vhost's metrics
}

func newMetrics(most int) *metrics {
	m := &metrics{Registry: prom.NewRegistry(), max: most, collectors: map[*vhost]func(){}, vhosts: prom.NewGauge(
		prom.GaugeOpts{Name: "vhosts_in_use", Help: "Virtual hosts that have a pool."})}
	m.MustRegister(m.vhosts)
	return m
}

// add adds the metrics of a vhost before its first request. The caller holds vhosts.mu.
func (m *metrics) add(v *vhost) {
	m.vhosts.Inc()
	v.proxy.Trace = debugTrace
	if len(m.collectors) >= m.max {
		return
	}
	c, err := prometheus.New(prometheus.Options{Registries: []*health.Registry{v.registry}, MaxTargets: 20})
	if err == nil {
		err = m.Register(c)
	}
	if err != nil {
		v.log.Warn("vhosts: no metrics", "frontend", v.name, "error", err)
		return
	}
	stop := c.Observe()
	m.collectors[v] = func() { stop(); m.Unregister(c) }
	v.proxy.Trace = wsproxy.MultiTrace(c.Trace(v.registry.Pool), debugTrace)
}

// remove removes the metrics of a vhost. The caller holds vhosts.mu.
func (m *metrics) remove(v *vhost) {
	m.vhosts.Dec()
	if remove := m.collectors[v]; remove != nil {
		remove()
		delete(m.collectors, v)
	}
}

// poolName returns the name of a frontend's pool, which is bounded.
func poolName(frontend string) string {
	if len(frontend) <= 128 {
		return frontend
	}
	sum := sha256.Sum256([]byte(frontend))
	return frontend[:95] + "~" + hex.EncodeToString(sum[:16])
}
