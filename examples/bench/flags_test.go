package main

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRefusedFlags(t *testing.T) {
	tests := map[string]struct {
		args []string
		want string
	}{
		"unknown flag":   {[]string{"-color"}, "flag provided but not defined: -color"},
		"missing value":  {[]string{"-o"}, "flag needs an argument: -o"},
		"argument":       {[]string{"haproxy"}, `unexpected argument "haproxy"`},
		"rounds":         {[]string{"-rounds", "0"}, `invalid value "0" for flag -rounds: must be from 1 to 1000`},
		"rounds, text":   {[]string{"-rounds", "many"}, `invalid value "many" for flag -rounds: `},
		"idle":           {[]string{"-idle", "10001"}, `invalid value "10001" for flag -idle: must be from 1 to 10000`},
		"idle, negative": {[]string{"-idle", "-1"}, `invalid value "-1" for flag -idle: `},
		"rate":           {[]string{"-rate", "0"}, `invalid value "0" for flag -rate: `},
		"slot":           {[]string{"-slot", "0s"}, `invalid value "0s" for flag -slot: must be above zero`},
		"limit":          {[]string{"-limit", "-1s"}, `invalid value "-1s" for flag -limit: must be above zero`},
		"soak":           {[]string{"-soak", "-1s"}, `invalid value "-1s" for flag -soak: must not be below zero`},
		"pickers":        {[]string{"-pickers", "-soak", "1m"}, "flag -pickers goes with -rounds, -slot and -quick alone"},
		"soak, before":   {[]string{"-soak", "1m", "-before", "demo"}, "flag -soak compares nothing, so it does not go with -before"},
		"run":            {[]string{"-run", "("}, "invalid value \"(\" for flag -run: error parsing regexp"},
		"only":           {[]string{"-only", "apache"}, `invalid value "apache" for flag -only: the programs are stickylb, ReverseProxy, HAProxy, nginx, Caddy`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // should it start after all
			var stdout, stderr bytes.Buffer
			require.Equal(t, exitRefused, run(ctx, tt.args, &stdout, &stderr))
			require.Empty(t, stdout.String())
			require.Regexp(t, `\Abench: [^\n]+\n\z`, stderr.String(), "one line")
			require.Contains(t, stderr.String(), tt.want)
		})
	}
}

func TestHelp(t *testing.T) {
	var stdout, stderr bytes.Buffer
	require.Equal(t, exitOK, run(t.Context(), []string{"-help"}, &stdout, &stderr))
	require.Empty(t, stderr.String())
	for _, flag := range []string{"-rounds", "-slot", "-limit", "-idle", "-rate", "-grow", "-scale", "-soak", "-pickers", "-only", "-run", "-before", "-o", "-quick"} {
		require.Regexp(t, `\n  `+flag+`\b`, stdout.String())
	}
}

func TestParse(t *testing.T) {
	parsed := func(args ...string) *options {
		o, err := parse(args, &bytes.Buffer{})
		require.NoError(t, err)
		return o
	}
	require.Equal(t, 510*time.Second, parsed().limit)
	require.Equal(t, 1530*time.Second, parsed("-grow").limit)
	require.Equal(t, time.Minute, parsed("-grow", "-limit", "1m").limit)
	require.Equal(t, 870*time.Second, parsed("-scale").limit)

	quick := parsed("-quick", "-idle", "7")
	require.Equal(t, 1, quick.rounds)
	require.Equal(t, 7, quick.idle, "what is given counts")
	require.Less(t, quick.slot, parsed().slot)

	require.True(t, parsed().wants("nginx"))
	some := parsed("-only", "HAPROXY,stickylb")
	require.True(t, some.wants("HAProxy"))
	require.False(t, some.wants("nginx"))
	require.False(t, some.wants(nameBefore))
	require.True(t, parsed("-only", "HAProxy", "-before", "demo").wants(nameBefore))
	require.Equal(t, []string{nameStickylb}, parsed("-soak", "1m").only)

	rows := func(args ...string) bool {
		return parsed(args...).wantsRows([]metric{{Name: "one"}, {Name: "another"}})
	}
	require.True(t, rows())
	require.True(t, rows("-run", "an"))
	require.False(t, rows("-run", "^other"))
}
