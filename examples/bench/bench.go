package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stickylb/stickylb/examples/internal/selfsigned"
)

const (
	usualTargets     = 3
	spareDescriptors = 400 // of a process, besides those of counted connections
)

// A bench has the files, the backends and the programs of a run.
type bench struct {
	*options
	began time.Time
	log   io.Writer // progress of the run

	dir               string // all files are there
	certFile, keyFile string
	demo              string      // the built balancer
	tls, tls2         *tls.Config // of clients of HTTP/1.1 and of HTTP/2
	descriptors       int         // limit of a process

	backend  *process
	backends []string // addresses
	proxies  []*proxy // programs that run all the time
	present  []string // description of each
	tracer   *tracer  // nil: none works here
	missing  []string // programs that do not run, and why
}

// open prepares everything and starts the backends and the programs. The caller must call close
// even after an error.
func (b *bench) open(ctx context.Context) (err error) {
	if err := checkDir(b.out); err != nil {
		return err
	}
	wanted := 2*maxIdle + spareDescriptors
	if b.scale {
		wanted += 2 * crowdSize // for as many idle clients
	}
	allowed, err := raiseLimit(wanted)
	if err != nil {
		return err
	}
	b.descriptors = min(allowed, wanted) // the programs have tables for as many as they may have
	most := b.maxConnections()
	if most < b.connections {
		return fmt.Errorf("a process may have no more than %d descriptors here", allowed)
	}
	if b.idle > most {
		fmt.Fprintf(b.log, "%d idle WebSockets instead of %d: a process may have %d descriptors here\n", most, b.idle, allowed)
		b.idle = most
	}
	if b.dir, err = os.MkdirTemp("", "stickylb-bench-"); err != nil {
		return err
	}
	if err := errors.Join(b.writeCertificate(), b.build(ctx)); err != nil {
		return err
	}
	if err := b.startBackend(ctx); err != nil {
		return err
	}
	if err := b.startPrograms(ctx); err != nil {
		return err
	}
	if b.soak > 0 {
		return nil
	}
	b.tracer, err = findTracer(ctx, b.backend.cmd.Process.Pid)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		b.missing = append(b.missing, fmt.Sprintf("System calls are not counted: %v", err))
	}
	return nil
}

// close stops all processes and removes all files.
func (b *bench) close() error {
	for _, p := range b.proxies {
		p.process.stop()
	}
	if b.backend != nil {
		b.backend.stop()
	}
	if b.dir == "" {
		return nil
	}
	return os.RemoveAll(b.dir)
}

// writeCertificate makes a certificate for all programs. It is valid for the time of the run.
func (b *bench) writeCertificate() error {
	cert, err := selfsigned.New("localhost")
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return err
	}
	// All programs use the same TLS version and key exchange, so that they have the same work. Not
	// all support the newer key exchanges that Go prefers.
	b.tls = &tls.Config{ServerName: "localhost", RootCAs: x509.NewCertPool(), NextProtos: []string{"http/1.1"},
		MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.X25519}}
	b.tls.RootCAs.AddCert(leaf)
	b.tls2 = b.tls.Clone()
	b.tls2.NextProtos = []string{"h2"}
	b.certFile, b.keyFile = filepath.Join(b.dir, "cert.pem"), filepath.Join(b.dir, "key.pem")
	return errors.Join(
		os.WriteFile(b.certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw}), 0o600),
		os.WriteFile(b.keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600))
}

// build compiles the demo balancer.
func (b *bench) build(ctx context.Context) error {
	b.demo = filepath.Join(b.dir, "demo")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", b.demo, "github.com/stickylb/stickylb/examples/demo")
	cmd.Env = append(os.Environ(), "GOTMPDIR="+b.dir)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // the go command then stops its compilers
	cmd.WaitDelay = farewellTime
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build examples/demo (run this inside the module): %w: %s", err, bytes.TrimSpace(text))
	}
	return nil
}

func (b *bench) startBackend(ctx context.Context) error {
	n := usualTargets
	if b.grow {
		n = slices.Max(growTargets)
	} else if b.scale {
		n = flapTargets
	}
	cmd, err := roleCommand(roleBackend, strconv.Itoa(n))
	if err != nil {
		return err
	}
	if b.backend, err = startProcess(cmd); err != nil {
		return err
	}
	if b.backends, err = b.backend.addresses(ctx, n); err != nil {
		return fmt.Errorf("backend: %w", err)
	}
	return nil
}

// startPrograms starts the wanted programs that are installed. It fails without the first two. It
// records which others are missing.
func (b *bench) startPrograms(ctx context.Context) error {
	for _, p := range programs {
		if !b.wants(p.name) {
			continue
		}
		line, err := b.versionOf(ctx, p)
		var started *proxy
		if err == nil {
			started, err = b.startProgram(ctx, p, b.backends[:usualTargets], nil)
		}
		if err != nil && (p.install == "" || ctx.Err() != nil) {
			return err
		}
		if err != nil {
			b.missing = append(b.missing, fmt.Sprintf("%s is left out: %v", p.name, err))
			fmt.Fprintln(b.log, b.missing[len(b.missing)-1])
			continue
		}
		b.proxies = append(b.proxies, started)
		b.present = append(b.present, fmt.Sprintf("%s (%s): %s", p.name, line, p.about))
	}
	if len(b.proxies) == 0 {
		return errors.New("none of the programs is left")
	}
	return nil
}

// dial connects to a proxy's plain or TLS listener.
func (b *bench) dial(ctx context.Context, p *proxy, secure bool) (*client, error) {
	if secure {
		return dial(ctx, p.listenTLS, b.tls)
	}
	return dial(ctx, p.listen, nil)
}

// about returns how everything was set up.
func (b *bench) about() []string {
	about := slices.Clone(b.present)
	about = append(about, fmt.Sprintf("Environment: %s for %s and Caddy, %s for %s.",
		godebug(extendedConnect+"=1"), nameStickylb, godebug(extendedConnect+"=0"), nameReverseProxy))
	suites := make(map[string][]string)
	for _, p := range b.proxies {
		suites[p.suite] = append(suites[p.suite], p.name)
	}
	for _, suite := range slices.Sorted(maps.Keys(suites)) {
		about = append(about, fmt.Sprintf("TLS 1.3 with X25519 and %s: %s.", suite, strings.Join(suites[suite], ", ")))
	}
	if n, processes := b.crowd(); b.scale && n < b.size(crowdSize) {
		about = append(about, fmt.Sprintf("A process may have %d descriptors here: %d WebSockets and idle clients instead of %d, over %d processes of each program.",
			b.descriptors, n, b.size(crowdSize), processes))
	}
	if b.scale {
		about = append(about, "What is calculated is no measurement: see contention in examples/bench/scale.go for what it assumes.")
	}
	if b.tracer != nil {
		about = append(about, fmt.Sprintf("System calls are counted by %s. A sleep is a voluntary context switch, as the kernel counts it.", b.tracer.about))
	}
	return about
}

// maxConnections returns how many connections a process may accept if each needs another to a
// backend.
func (b *bench) maxConnections() int { return (b.descriptors - spareDescriptors) / 2 }

// A result has all measurements.
type result struct {
	Machine  string              `json:"machine"`
	Programs []string            `json:"programs"`
	About    []string            `json:"about"` // how they were set up
	Missing  []string            `json:"missing,omitempty"`
	Rounds   int                 `json:"rounds"` // rounds that began
	Metrics  []metric            `json:"metrics"`
	Samples  map[string]series   `json:"samples"` // by the metric's name
	Failures []string            `json:"failures,omitempty"`
	failed   map[string]struct{} // program and scenario
}

// Absent is the reason why a program cannot be measured in something that it does not offer. That
// is no failure.
type absent string

func (a absent) Error() string { return string(a) }

// A series has the samples of each program.
type series map[string][]float64

// compare runs the scenarios. In each round every program runs each scenario once, so that the
// machine's noise affects all programs alike. After the first round it stops before the time limit.
func (b *bench) compare(ctx context.Context, all []scenario) (*result, error) {
	r := &result{Machine: machine(), Programs: []string{}, About: b.about(), Missing: b.missing, Samples: make(map[string]series),
		failed: make(map[string]struct{})}
	for _, p := range b.proxies {
		r.Programs = append(r.Programs, p.name)
	}
	for _, s := range all {
		r.Metrics = append(r.Metrics, s.metrics...)
	}
	took := make([]time.Duration, len(all)) // in the last round
	for round := range b.rounds {
		for i, s := range all {
			if s.rounds > 0 && round >= s.rounds {
				continue
			}
			began := time.Now()
			if round > 0 && began.Sub(b.began)+took[i] > b.limit {
				fmt.Fprintf(b.log, "time is up in round %d of %d\n", round+1, b.rounds)
				return r, nil
			}
			r.Rounds = round + 1
			if err := b.turn(ctx, r, s, round); err != nil {
				return nil, err
			}
			took[i] = time.Since(began)
		}
		fmt.Fprintf(b.log, "round %d of %d is done after %v\n", round+1, b.rounds, time.Since(b.began).Round(time.Second/10))
	}
	return r, nil
}

// turn runs one scenario with every program. Each round begins with another program. A failure is
// recorded, and the program does not run that scenario again.
func (b *bench) turn(ctx context.Context, r *result, s scenario, round int) error {
	for i := range b.proxies {
		p := b.proxies[(i+round)%len(b.proxies)]
		what := p.name + ", " + s.metrics[0].Name
		if _, failed := r.failed[what]; failed || s.own && !s.measures(p) {
			continue
		}
		values, err := b.sample(ctx, p, s)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if reason, ok := errors.AsType[absent](err); ok {
			r.failed[what] = struct{}{}
			r.Missing = append(r.Missing, fmt.Sprintf("%s: no figure, %v", what, reason))
			continue
		}
		if err != nil {
			r.failed[what] = struct{}{}
			r.Failures = append(r.Failures, fmt.Sprintf("%s: %v", what, err))
			fmt.Fprintln(b.log, "failed:", r.Failures[len(r.Failures)-1])
			continue
		}
		for k, m := range s.metrics {
			if r.Samples[m.Name] == nil {
				r.Samples[m.Name] = make(series)
			}
			if !math.IsNaN(values[k]) {
				r.Samples[m.Name][p.name] = append(r.Samples[m.Name][p.name], values[k])
			}
		}
	}
	return nil
}

// measures reports whether a scenario of the library alone measures this program.
func (s scenario) measures(p *proxy) bool {
	return p.name == nameStickylb || p.name == nameBefore && s.targets > 0
}

// sample measures once. It closes its clients.
func (b *bench) sample(ctx context.Context, p *proxy, s scenario) ([]float64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if s.targets > 0 {
		fresh, err := b.startProgram(ctx, p.program, b.backends[:s.targets], s.setup)
		if err != nil {
			return nil, err
		}
		defer fresh.process.stop()
		p = fresh
	}
	return s.measure(ctx, b, p)
}
