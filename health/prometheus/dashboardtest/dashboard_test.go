package dashboardtest_test

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/table"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A board has the parts of a dashboard that the tests read.
type board struct {
	Templating struct {
		List []struct {
			Name, Type, AllValue string
			Query                json.RawMessage
		}
	}
	Panels []struct {
		ID         uint32
		Title      string
		Type       string
		Datasource source
		GridPos    struct{ X, Y, W, H int }
		Targets    []struct {
			RefID      string
			Expr       string
			Datasource source
		}
	}
}

type source struct{ Type, UID string }

func read(t *testing.T) (raw []byte, b board) {
	t.Helper()
	raw, err := os.ReadFile("../dashboard.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &b))
	require.NotEmpty(t, b.Panels)
	return raw, b
}

// The dashboard has the fields of Grafana's schema and no others, with values that it allows, down
// to the options of each kind of panel and the queries.
func TestDashboard_Schema(t *testing.T) {
	// Grafana's plugins are 40 packages. The dashboard uses only these.
	known := cog.NewRuntime()
	known.RegisterPanelcfgVariant(stat.VariantConfig())
	known.RegisterPanelcfgVariant(table.VariantConfig())
	known.RegisterPanelcfgVariant(timeseries.VariantConfig())
	known.RegisterDataqueryVariant(prometheus.VariantConfig())
	raw, b := read(t)
	for _, p := range b.Panels {
		require.Contains(t, []string{"stat", "table", "timeseries"}, p.Type, p.Title)
	}
	require.Empty(t, faults(t, raw))

	for from, to := range map[string]string{
		`"type": "stat"`:      `"type": 1`,
		`"gridPos"`:           `"gridPosition"`,
		`"legendFormat"`:      `"legend"`,
		`"includeAll": true`:  `"includeAll": "yes"`,
		`"graphMode"`:         `"graphingMode"`,
		`"schemaVersion": 39`: `"schemaVersion": "39"`,
	} {
		require.Contains(t, string(raw), from)
		assert.NotEmpty(t, faults(t, []byte(strings.Replace(string(raw), from, to, 1))), "%s for %s passes", to, from)
	}
}

// faults returns the violations of Grafana's schema by a dashboard. The schema's own error is a
// list, which is not nil when it is empty.
func faults(t *testing.T, raw []byte) (all []string) {
	t.Helper()
	//lint:ignore SA1019 dashboard.json has the format of this schema, which Grafana imports
	var d dashboard.Dashboard
	for _, err := range []error{d.UnmarshalJSONStrict(raw), d.Validate()} {
		if list, ok := errors.AsType[cog.BuildErrors](err); ok {
			for _, e := range list {
				all = append(all, e.Error())
			}
		} else if err != nil {
			all = append(all, err.Error())
		}
	}
	return all
}

// Everything in the dashboard follows its variables: the data source, the pool and, where a query
// has one, the target. No two panels lie over each other.
func TestDashboard_FollowsItsVariables(t *testing.T) {
	_, b := read(t)
	var names []string
	for _, v := range b.Templating.List {
		names = append(names, v.Name)
		if v.Type == "query" {
			require.Equal(t, ".*", v.AllValue, "All has to mean the pool without a name, too")
		}
	}
	require.Equal(t, []string{"datasource", "pool", "target"}, names)

	own := source{"prometheus", "${datasource}"}
	taken := map[[2]int]string{}
	ids := map[uint32]bool{}
	for _, p := range b.Panels {
		require.False(t, ids[p.ID], "two panels have the ID %d", p.ID)
		ids[p.ID] = true
		require.Equal(t, own, p.Datasource, p.Title)
		require.NotEmpty(t, p.Targets, p.Title)
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				require.Empty(t, taken[[2]int{x, y}], p.Title)
				require.Less(t, x, 24, p.Title)
				taken[[2]int{x, y}] = p.Title
			}
		}
		for _, q := range p.Targets {
			require.Equal(t, own, q.Datasource, p.Title)
			require.Equal(t, strings.Count(q.Expr, "stickylb_"), strings.Count(q.Expr, `pool=~"$pool"`), q.Expr)
		}
	}
}
