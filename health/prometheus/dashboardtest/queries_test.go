package dashboardtest_test

import (
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"sort"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The test makes two rounds of traffic over four pools, with scrapes before, between and after
// them. Then it runs every query of every panel. Each query has numbers, and those that can be
// known are right.
func TestDashboard_QueriesHaveTheNumbersOfTheTraffic(t *testing.T) {
	_, b := read(t)
	s := newSite(t)
	p := startPrometheus(t, s.metrics)
	p.until(t, 4, "stickylb_registry_running")
	for round := 1.; round <= 2; round++ {
		s.round(t)
		// The last hooks of a round run after the client has seen the end of its connections.
		p.until(t, round*connections, `stickylb_tunnel_ends_total{pool="mail"}`)
		p.until(t, round*tunnels, `stickylb_tunnel_ends_total{pool="chat"}`)
		p.until(t, round*(served+1), `stickylb_target_requests_total{pool="narrow"}`)
		p.until(t, round*(served+timeouts), `stickylb_queue_wait_seconds_count`)
		p.until(t, round*(1+unboundRequests+boundRequests+forgedRequests), `stickylb_policy_bindings_total{pool="shop"}`)
	}
	p.until(t, 1, "stickylb_targets_ejected")
	p.stop(t)

	t.Run("variables", func(t *testing.T) { variables(t, p, b) })
	t.Run("counts", func(t *testing.T) { counts(t, p) })
	t.Run("panels", func(t *testing.T) { panels(t, p, b) })
}

// variables checks what the selectors of the dashboard offer.
func variables(t *testing.T, p *server, b board) {
	want := map[string][]string{
		"pool":   {"chat", "mail", "narrow", "shop"},
		"target": {"app", "busy", "dead-1", "dead-2", "imap", "old", "one", "room", "sick"},
	}
	for _, v := range b.Templating.List {
		if v.Type != "query" {
			continue
		}
		var query struct{ Query string }
		require.NoError(t, json.Unmarshal(v.Query, &query))
		inner, ok := strings.CutPrefix(query.Query, "label_values(")
		require.True(t, ok, query.Query)
		selector, label, ok := strings.Cut(strings.TrimSuffix(inner, ")"), ", ")
		require.True(t, ok, query.Query)
		var got []string
		p.ask(t, "/api/v1/label/"+label+"/values", url.Values{"match[]": {substituted(selector, ".*")}}, &got)
		require.Equal(t, want[v.Name], got)
	}
}

// counts checks the counters themselves against the traffic.
func counts(t *testing.T, p *server) {
	const rounds = 2.
	dials := p.sum(t, `stickylb_request_retries_total{pool="shop",class="dial"}`)
	require.GreaterOrEqual(t, dials, 10., "five refused connections eject one of the two, and five more are refused an ejection")
	for expr, want := range map[string]float64{
		`stickylb_policy_bindings_total{pool="shop"}`:                       rounds * (1 + unboundRequests + boundRequests + forgedRequests),
		`stickylb_policy_bindings_total{pool="shop",result="kept"}`:         rounds * boundRequests,
		`stickylb_policy_bindings_total{pool="shop",result="bound"}`:        rounds * (1 + unboundRequests + forgedRequests),
		`stickylb_policy_candidates_total{pool="shop",reason="none"}`:       rounds * (1 + unboundRequests),
		`stickylb_policy_candidates_total{pool="shop",reason="usable"}`:     rounds * (boundRequests + resets),
		`stickylb_policy_candidates_total{pool="shop",reason="malformed"}`:  rounds * forgedRequests,
		`stickylb_request_failures_total{pool="shop",class="header"}`:       rounds * resets,
		`stickylb_request_failures_total{pool="narrow",class="no target"}`:  rounds * timeouts,
		`stickylb_queue_wait_seconds_count{pool="narrow",result="served"}`:  rounds * served,
		`stickylb_queue_wait_seconds_count{pool="narrow",result="timeout"}`: rounds * timeouts,
		`stickylb_queue_waiting`:                                                         0,
		`stickylb_tunnel_ends_total{pool="chat"}`:                                        rounds * tunnels,
		`stickylb_tunnel_ends_total{pool="mail",ended_by="client closed"}`:               rounds * connections,
		`stickylb_tunnel_duration_seconds_count`:                                         rounds * (tunnels + connections),
		`stickylb_target_tunnels`:                                                        1,
		`stickylb_target_ejections_total`:                                                1,
		`stickylb_request_latency_seconds_count{pool="shop",class="header failed"}`:      rounds * resets,
		`stickylb_target_requests_total{pool="shop",class="header failed"}`:              rounds * resets,
		`stickylb_target_requests_total{pool="shop",class="connect failed"}`:             dials,
		`stickylb_target_requests_total{pool="shop",target="app",class="ok",code="2xx"}`: rounds * (1 + unboundRequests + boundRequests + forgedRequests),
	} {
		require.Equal(t, want, p.sum(t, expr), expr)
	}
	require.Positive(t, p.sum(t, `stickylb_target_ejections_refused_total`))
}

// panels runs every query of every panel, for all pools together and for each pool that has such
// numbers.
func panels(t *testing.T, p *server, b board) {
	stats := map[string]float64{"Serving": 6, "Unhealthy": 1, "Ejected": 1, "Taken out": 1, "Tunnels": 1, "Zones without a target": 1}
	for _, panel := range b.Panels {
		for _, q := range panel.Targets {
			all := p.query(t, substituted(q.Expr, ".*"))
			require.NotEmpty(t, all, "%s: %s", panel.Title, q.Expr)
			var lines []string
			for _, one := range all {
				n := one.number(t)
				require.False(t, math.IsNaN(n) || math.IsInf(n, 0), "%s: %s: %v", panel.Title, q.Expr, one)
				require.GreaterOrEqual(t, n, 0., panel.Title)
				lines = append(lines, fmt.Sprintf("%v = %v", label(one.Metric), n))
			}
			sort.Strings(lines)
			t.Logf("%s\n\t%s\n\t\t%s", panel.Title, q.Expr, strings.Join(lines, "\n\t\t"))
			if want, ok := stats[panel.Title]; ok {
				require.Len(t, all, 1)
				require.Equal(t, want, all[0].number(t), panel.Title)
			}
			for _, one := range p.query(t, substituted(q.Expr, "shop|narrow")) {
				require.NotContains(t, []string{"chat", "mail"}, one.Metric["pool"], panel.Title)
			}
		}
	}
}

func label(metric map[string]string) string {
	var all []string
	for name, value := range metric {
		if name != "__name__" && name != "instance" && name != "job" {
			all = append(all, name+"="+value)
		}
	}
	sort.Strings(all)
	return "{" + strings.Join(all, " ") + "}"
}

// substituted returns a query as Grafana sends it, for a pool and for all targets.
func substituted(query, pool string) string {
	return strings.NewReplacer("$pool", pool, "$target", ".*", "$__rate_interval", "1m").Replace(query)
}
