package main

import (
	"bytes"
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRefusedFlags(t *testing.T) {
	tests := map[string]struct {
		args []string
		want string
	}{
		"unknown flag":         {[]string{"-color"}, "flag provided but not defined: -color"},
		"missing value":        {[]string{"-target"}, "flag needs an argument: -target"},
		"argument":             {[]string{"http://127.0.0.1:9"}, `unexpected argument "http://127.0.0.1:9"`},
		"listen":               {[]string{"-listen", "8080"}, `invalid value "8080" for flag -listen: no address such as 127.0.0.1:8080`},
		"listen-tls":           {[]string{"-listen-tls", "[::1"}, `invalid value "[::1" for flag -listen-tls: `},
		"admin host":           {[]string{"-admin-host", "admin.example:9000"}, `invalid value "admin.example:9000" for flag -admin-host: `},
		"admin":                {[]string{"-admin", "localhost"}, `invalid value "localhost" for flag -admin: `},
		"no listener":          {[]string{"-listen", "", "-listen-tls", ""}, "-listen and -listen-tls are both empty"},
		"cert alone":           {[]string{"-tls-cert", "cert.pem"}, "-tls-cert and -tls-key go together"},
		"key file alone":       {[]string{"-tls-key", "key.pem"}, "-tls-cert and -tls-key go together"},
		"target":               {[]string{"-target", "http://[::1"}, `target 0 (""): not a URL: missing ']' in host`},
		"target, no scheme":    {[]string{"-target", "127.0.0.1:9"}, `the URL has no scheme: write "http://127.0.0.1:9"`},
		"target, no host":      {[]string{"-target", "a=http://"}, "the URL has no host"},
		"target, tcp":          {[]string{"-target", "a=tcp://127.0.0.1:9"}, `target "a" speaks no HTTP, and no -tcp names it`},
		"tcp alone":            {[]string{"-target", "a=tcp://127.0.0.1:9", "-tcp", "127.0.0.1:0=a"}, "has no target that speaks HTTP"},
		"tcp, no IDs":          {[]string{"-tcp", "127.0.0.1:0"}, `invalid value "127.0.0.1:0" for flag -tcp: no ADDR=ID,ID... such as 127.0.0.1:6380=redis-1,redis-2`},
		"tcp, empty ID":        {[]string{"-tcp", "127.0.0.1:0=app-1,"}, "for flag -tcp: no ADDR=ID,ID..."},
		"tcp, no address":      {[]string{"-tcp", "9=app-1"}, "for flag -tcp: no ADDR=ID,ID..."},
		"tcp, unknown ID":      {[]string{"-tcp", "127.0.0.1:0=app-1,app-9"}, `invalid value "127.0.0.1:0=app-1,app-9" for flag -tcp: no target has the ID "app-9"`},
		"target, ftp":          {[]string{"-target", "ftp://127.0.0.1:9"}, `scheme "ftp" is none of http, https, ws, wss`},
		"target, query":        {[]string{"-target", "http://127.0.0.1:9?a=b"}, "the URL has a query"},
		"target, user":         {[]string{"-target", "http://me@127.0.0.1:9"}, "the URL has user information"},
		"target, no ID":        {[]string{"-target", "=http://127.0.0.1:9"}, "the ID before the = is empty"},
		"target, empty":        {[]string{"-target", " "}, "-target is empty"},
		"target, option":       {[]string{"-target", "http://127.0.0.1:9;heavy"}, `the option "heavy" is none of `},
		"target, twice":        {[]string{"-target", "a=http://127.0.0.1:9", "-target", "a=http://127.0.0.1:8"}, "another target has this ID"},
		"sticky":               {[]string{"-sticky", "ip"}, `invalid value "ip" for flag -sticky: the modes are lb, lb=DURATION, app=COOKIE, learn=COOKIE, learn-header=NAME, header=NAME, none`},
		"sticky, duration":     {[]string{"-sticky", "lb=soon"}, `invalid value "lb=soon" for flag -sticky: no duration such as lb=1h`},
		"sticky, negative":     {[]string{"-sticky", "lb=-1s"}, "no duration such as lb=1h"},
		"sticky, zero":         {[]string{"-sticky", "lb=0s"}, "no duration such as lb=1h"},
		"sticky, app":          {[]string{"-sticky", "app"}, `invalid value "app" for flag -sticky: `},
		"sticky, cookie":       {[]string{"-sticky", "app="}, "of the application's cookie"},
		"sticky, learn":        {[]string{"-sticky", "learn"}, `invalid value "learn" for flag -sticky: the modes are `},
		"sticky, learn=":       {[]string{"-sticky", "learn="}, `invalid value "learn=" for flag -sticky: no name of the application's cookie`},
		"sticky, learn-header": {[]string{"-sticky", "learn-header=a b"}, `invalid value "learn-header=a b" for flag -sticky: `},
		"sticky, header":       {[]string{"-sticky", "header="}, `invalid value "header=" for flag -sticky: `},
		"sticky, header name":  {[]string{"-sticky", "header=a b"}, `invalid value "header=a b" for flag -sticky: `},
		"sticky, none and":     {[]string{"-sticky", "none=1"}, `invalid value "none=1" for flag -sticky: `},
		"picker":               {[]string{"-picker", "best"}, `invalid value "best" for flag -picker: the algorithms are least, roundrobin, `},
		"check":                {[]string{"-check", "healthz"}, `invalid value "healthz" for flag -check: no path such as /healthz`},
		"check, URL":           {[]string{"-check", "http://127.0.0.1/healthz"}, "for flag -check: no path"},
		"check, fragment":      {[]string{"-check", "/a#b"}, "for flag -check: no path"},
		"check-interval":       {[]string{"-check-interval", "often"}, `invalid value "often" for flag -check-interval: `},
		"check-interval, 0":    {[]string{"-check-interval", "0"}, `invalid value "0s" for flag -check-interval: must be above zero`},
		"check-interval, neg":  {[]string{"-check-interval", "-1s"}, "must be above zero"},
		"key, short":           {[]string{"-seal-key", "c0ffee"}, "invalid value for flag -seal-key: key 1: want 64 hexadecimal digits, got 6 characters"},
		"key, long":            {[]string{"-seal-key", strings.Repeat("c0", 33)}, "want 64 hexadecimal digits, got 66 characters"},
		"key, no hex":          {[]string{"-seal-key", strings.Repeat("xy", 32)}, "invalid value for flag -seal-key: "},
		"key, twice":           {[]string{"-seal-key", strings.Repeat("c0", 32), "-seal-key", strings.Repeat("c0", 32)}, "invalid value for flag -seal-key: cookie: "},
		"keys, many":           {slices.Repeat([]string{"-seal-key", "c0"}, 9), "invalid value for flag -seal-key: 9 keys are more than 8"},
		"old flags":            {[]string{"-key", strings.Repeat("c0", 32)}, "flag provided but not defined: -key"},
		"trust":                {[]string{"-trust", "10.0.0.1"}, `invalid value "10.0.0.1" for flag -trust: no CIDR such as 10.0.0.0/8`},
		"forwarded":            {[]string{"-forwarded", "drop"}, `invalid value "drop" for flag -forwarded: the modes are append, preserve, remove`},
		"send-proxy":           {[]string{"-send-proxy", "1"}, `invalid value "1" for flag -send-proxy: the versions are v1, v2`},
		"accept-proxy":         {[]string{"-accept-proxy", "all"}, `invalid value "all" for flag -accept-proxy: no CIDR such as 10.0.0.0/8`},
		"value of two lines":   {[]string{"-sticky", "a\nb"}, `invalid value "a\nb" for flag -sticky`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"-listen", "127.0.0.1:0", "-listen-tls", "127.0.0.1:0"}, tt.args...)
			requireRefused(t, args, exitUsage, tt.want)
		})
	}
}

// What is no mistake of the command line's has another exit code.
func TestCannotStart(t *testing.T) {
	directory := t.TempDir()
	tests := map[string]struct {
		args []string
		want string
	}{
		"no such port": {[]string{"-listen", "127.0.0.1:port"}, "listen tcp: "},
		"no file": {[]string{"-tls-cert", directory + "/cert.pem", "-tls-key", directory + "/key.pem"},
			"cert.pem: no such file"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"-listen", "127.0.0.1:0", "-listen-tls", "127.0.0.1:0"}, tt.args...)
			requireRefused(t, args, exitFailed, tt.want)
		})
	}
}

// requireRefused runs the demo and requires that it ends at once, with that code and with a line
// that contains want.
func requireRefused(t *testing.T, args []string, code int, want string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), patience) // should it start after all
	defer cancel()
	require.Equal(t, code, run(ctx, args, &stdout, &stderr), stdout.String())
	require.Empty(t, stdout.String(), "nothing may accept")
	require.Regexp(t, `\Ademo: [^\n]+\n\z`, stderr.String(), "one line")
	require.Contains(t, stderr.String(), want)
}

func TestKeyIsNotShown(t *testing.T) {
	secret := strings.Repeat("5e", 31)
	var stdout, stderr bytes.Buffer
	require.Equal(t, exitUsage, run(t.Context(), []string{"-seal-key", secret}, &stdout, &stderr))
	require.NotContains(t, stderr.String(), secret)
}

func TestAddressInUse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	for _, flag := range []string{"-listen", "-listen-tls", "-admin", "-tcp"} {
		t.Run(flag, func(t *testing.T) {
			value := taken.Addr().String()
			if flag == "-tcp" {
				value += "=app-1"
			}
			args := []string{"-listen", "127.0.0.1:0", "-listen-tls", "127.0.0.1:0", flag, value}
			requireRefused(t, args, exitFailed, fmt.Sprintf("listen tcp %s: bind: address already in use", taken.Addr()))
		})
	}
}

func TestHelp(t *testing.T) {
	var stdout, stderr bytes.Buffer
	require.Equal(t, exitOK, run(t.Context(), []string{"-help"}, &stdout, &stderr))
	require.Empty(t, stderr.String())
	for _, flag := range []string{"-listen", "-listen-tls", "-tls-cert", "-tls-key", "-target", "-sticky", "-picker",
		"-check", "-check-interval", "-seal-key", "-tcp", "-trust", "-forwarded", "-send-proxy", "-accept-proxy", "-admin", "-admin-host"} {
		require.Contains(t, stdout.String(), "\n  "+flag+" ")
	}
	for _, p := range pickers {
		require.Contains(t, stdout.String(), p.name)
	}
}

// TestPickers_AllOfTheLibrary reads the library's source: an algorithm without a name would not be
// missed otherwise. A Split is made of others and of functions, which no flag can name.
func TestPickers_AllOfTheLibrary(t *testing.T) {
	named := map[string]bool{"balancer.Split": true}
	for _, p := range pickers {
		named[strings.TrimPrefix(fmt.Sprintf("%T", p.make()), "*")] = true
	}
	for _, name := range exportedPickers(t, "../../balancer") {
		require.True(t, named["balancer."+name], "balancer.%s has no -picker name", name)
		delete(named, "balancer."+name)
	}
	require.Empty(t, named)
}

// exportedPickers returns the exported types of the package in a directory that have a method Pick.
func exportedPickers(t *testing.T, directory string) []string {
	t.Helper()
	files, err := filepath.Glob(directory + "/*.go")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	var names []string
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv != nil && f.Name.Name == "Pick" {
				if receiver := receiverName(f.Recv.List[0].Type); ast.IsExported(receiver) {
					names = append(names, receiver)
				}
			}
		}
	}
	return names
}

func receiverName(e ast.Expr) string {
	if star, ok := e.(*ast.StarExpr); ok {
		e = star.X
	}
	if id, ok := e.(*ast.Ident); ok {
		return id.Name
	}
	return ""
}
