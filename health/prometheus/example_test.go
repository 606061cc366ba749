package prometheus_test

import (
	"fmt"
	"net/http"

	prom "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/health/prometheus"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// Several pools by path, with TLS, metrics and a status page for operators. The README has these
// lines.
func Example_severalPools() {
	api, _ := balancer.New(balancer.Config{Name: "api"})
	assets, _ := balancer.New(balancer.Config{Name: "assets"})
	policy, _ := stickiness.NewLBCookie(stickiness.LBCookieOptions{Secure: true, HttpOnly: true})
	mux, operators := http.NewServeMux(), http.NewServeMux()

	registries := []*health.Registry{{Pool: api}, {Pool: assets}} // each pool has a Name; run them
	collector, err := prometheus.New(prometheus.Options{Registries: registries})
	if err != nil {
		fmt.Println(err)
		return
	}
	prom.MustRegister(collector)
	mux.Handle("/api/", &wsproxy.Proxy{Pool: api, Policy: policy, Trace: collector.Trace(api)})
	mux.Handle("/", &wsproxy.Proxy{Pool: assets, Trace: collector.Trace(assets)})
	operators.Handle("/metrics", promhttp.Handler())
	operators.Handle("/", (&health.Page{Registries: registries}).Handler())
	err = http.ListenAndServeTLS(":8443", "cert.pem", "key.pem", mux)
	fmt.Println(err)
}
