package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	elbsdk "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancing"
	"github.com/aws/aws-sdk-go-v2/service/elasticloadbalancing/types"
	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/examples/elb/internal/classic"
)

// A process is the program in a process of its own, so that it can be killed.
type process struct {
	cmd *exec.Cmd
	url string
	log *bytes.Buffer
}

// runProcess starts the program and waits for its ready line.
func runProcess(t *testing.T, args ...string) (*process, error) {
	t.Helper()
	p := &process{cmd: exec.Command(os.Args[0], append([]string{"-api", "127.0.0.1:0", "-port-offset", "0"}, args...)...), log: &bytes.Buffer{}}
	p.cmd.Env = append(os.Environ(), asProgram+"=yes")
	p.cmd.Stderr = p.log
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, begin(p.cmd))
	t.Cleanup(p.kill)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "elb accepts on "); ok {
			p.url, _, _ = strings.Cut(rest, " ")
			go io.Copy(io.Discard, out)
			return p, nil
		}
	}
	return nil, fmt.Errorf("%w: %s", p.cmd.Wait(), p.log)
}

// kill ends the process at once, wherever it is, and waits for its end.
func (p *process) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

// randomCall returns the form of a call that changes something, if it fits.
func randomCall(r *rand.Rand, ports []int32) url.Values {
	lb, policy := fmt.Sprint("lb-", r.IntN(2)), fmt.Sprint("policy-", r.IntN(3))
	port := fmt.Sprint(ports[r.IntN(len(ports))])
	id := embeddedIDs[r.IntN(len(embeddedIDs))]
	forms := [][]string{
		{"CreateLoadBalancer", "AvailabilityZones.member.1", "us-east-1a", "Listeners.member.1.Protocol", "HTTP",
			"Listeners.member.1.LoadBalancerPort", port, "Listeners.member.1.InstancePort", "80"},
		{"CreateLoadBalancerListeners", "Listeners.member.1.Protocol", "TCP",
			"Listeners.member.1.LoadBalancerPort", port, "Listeners.member.1.InstancePort", "80"},
		{"RegisterInstancesWithLoadBalancer", "Instances.member.1.InstanceId", id},
		{"DeregisterInstancesFromLoadBalancer", "Instances.member.1.InstanceId", id},
		{"CreateLBCookieStickinessPolicy", "PolicyName", policy, "CookieExpirationPeriod", fmt.Sprint(r.IntN(1000))},
		{"SetLoadBalancerPoliciesOfListener", "LoadBalancerPort", port, "PolicyNames.member.1", policy},
		{"SetLoadBalancerPoliciesOfListener", "LoadBalancerPort", port, "PolicyNames", ""},
		{"ModifyLoadBalancerAttributes", "LoadBalancerAttributes.ConnectionSettings.IdleTimeout", fmt.Sprint(1 + r.IntN(4000))},
		{"AddTags", "LoadBalancerNames.member.1", lb, "Tags.member.1.Key", policy, "Tags.member.1.Value", fmt.Sprint(r.Int())},
		{"DeleteLoadBalancerListeners", "LoadBalancerPorts.member.1", port},
		{"DeleteLoadBalancer"},
	}
	n := r.IntN(len(forms))
	if n == len(forms)-1 && r.IntN(4) > 0 {
		n = 0 // more live than die
	}
	form := url.Values{"Action": {forms[n][0]}, "Version": {classic.Version}, "LoadBalancerName": {lb}}
	for i := 1; i < len(forms[n]); i += 2 {
		form.Set(forms[n][i], forms[n][i+1])
	}
	return form
}

// A stillWorld is a world without traffic.
type stillWorld struct{}

func (stillWorld) Instance(id string) bool                { return slices.Contains(embeddedIDs, id) }
func (stillWorld) Certificate(string) bool                { return true }
func (stillWorld) Leaving(*classic.LoadBalancer) []string { return nil }
func (stillWorld) DNSName(name string) string             { return name + ".elb.localhost" }
func (stillWorld) States(*classic.LoadBalancer, []string) []classic.InstanceState {
	return nil
}

// timeless returns the text of a document without the times of creation.
func timeless(t *testing.T, d *classic.Document) string {
	t.Helper()
	text, err := d.MarshalIndent()
	require.NoError(t, err)
	return regexp.MustCompile(`"CreatedTime": "[^"]*"`).ReplaceAllString(string(text), `"CreatedTime": ""`)
}

func readState(t *testing.T, file string) *classic.Document {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	d, err := classic.Parse(text)
	require.NoError(t, err)
	return d
}

// The process is killed at any moment of many random calls. After that, the state is that of the
// last call that was answered, or whole that of the one under way.
func TestState_KilledAtAnyMoment(t *testing.T) {
	t.Parallel()
	calls := 60
	if os.Getenv("SOAK") != "" {
		calls = 500
	}
	file := filepath.Join(t.TempDir(), "state.json")
	var ports []int32
	for range 4 {
		ports = append(ports, freePort(t))
	}
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	p, err := runProcess(t, "-state", file)
	require.NoError(t, err)
	post := func(form url.Values) (status int) {
		req, err := http.NewRequest("POST", p.url, strings.NewReader(form.Encode()))
		require.NoError(t, err)
		req.Header = formHeader()
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0
		}
		defer res.Body.Close()
		return res.StatusCode
	}
	require.Equal(t, http.StatusOK, post(url.Values{"Action": {"CreateLoadBalancer"}, "Version": {classic.Version}, "LoadBalancerName": {"lb-0"},
		"AvailabilityZones.member.1": {"us-east-1a"}, "Listeners.member.1.Protocol": {"HTTP"},
		"Listeners.member.1.LoadBalancerPort": {fmt.Sprint(ports[0])}, "Listeners.member.1.InstancePort": {"80"}}))
	var kills, done, undone int
	for range calls {
		form := randomCall(r, ports)
		before := readState(t, file)
		action, fault := classic.Prepare(form.Get("Action"), form)
		require.Nil(t, fault)
		next, _, _ := action(before, stillWorld{}, time.Now())
		old, want := timeless(t, before), timeless(t, next)

		killed := r.IntN(6) == 0
		if killed {
			kills++
			doomed := p.cmd.Process
			time.AfterFunc(time.Duration(r.IntN(6000))*time.Microsecond, func() { doomed.Kill() })
		}
		status := post(form)
		if killed {
			p.kill()
		}
		switch now := timeless(t, readState(t, file)); {
		case status == http.StatusOK:
			require.Equal(t, want, now, "seed %d: %v was answered", seed, form)
		case status != 0:
			require.Equal(t, old, now, "seed %d: %v was refused", seed, form)
		case now == want:
			done++
		default:
			undone++
			require.Equal(t, old, now, "seed %d: %v was under way", seed, form)
		}
		if killed {
			p, err = runProcess(t, "-state", file)
			require.NoError(t, err, "seed %d", seed)
		}
	}
	t.Logf("seed %d: %d calls, killed %d times; of the calls that got no answer %d were done and %d were not", seed, calls, kills, done, undone)
}

// A state file that is not whole is an error that names the file, and stays as it is.
func TestState_Damaged(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "state.json")
	s := start(t, "-state", file)
	s.create(listener("HTTP", freePort(t), "HTTP", 80))
	whole, err := os.ReadFile(file)
	require.NoError(t, err)
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), "it has the keys of the cookies")
	tests := map[string]string{
		"empty":            "",
		"half":             string(whole[:len(whole)/2]),
		"more":             string(whole) + "{}",
		"a brace more":     string(whole) + "}",
		"a bracket more":   string(whole) + "]",
		"no JSON":          "state",
		"null":             "null",
		"another format":   strings.Replace(string(whole), `"format": 1`, `"format": 2`, 1),
		"unknown field":    strings.Replace(string(whole), `"format"`, `"fromat": 1, "format"`, 1),
		"short key":        strings.Replace(string(whole), `"keys": [`, `"keys": ["AAAA",`, 1),
		"unknown policy":   strings.Replace(string(whole), `"PolicyNames": []`, `"PolicyNames": ["x"]`, 1),
		"impossible check": strings.Replace(string(whole), `"TCP:80"`, `"TCP:0"`, 1),
		"no attributes":    strings.Replace(string(whole), `"ConnectionSettings"`, `"AdditionalAttributes": null, "X"`, 1),
		"null balancer":    strings.Replace(string(whole), `"load_balancers": [`, `"load_balancers": [null,`, 1),
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			require.NotEqual(t, string(whole), text)
			damaged := filepath.Join(t.TempDir(), "state.json")
			require.NoError(t, os.WriteFile(damaged, []byte(text), 0o600))
			o, err := parse([]string{"-api", "127.0.0.1:0", "-state", damaged}, io.Discard)
			require.NoError(t, err)
			_, err = open(o, slog.New(slog.DiscardHandler))
			require.ErrorContains(t, err, "the state file "+damaged+" is damaged")
			after, err := os.ReadFile(damaged)
			require.NoError(t, err)
			require.Equal(t, text, string(after))
		})
	}
}

// A state that cannot be written is no state: the call fails, and nothing changes.
func TestState_CannotBeWritten(t *testing.T) {
	t.Parallel()
	usesPortsAgain(t)
	dir := filepath.Join(t.TempDir(), "gone")
	require.NoError(t, os.Mkdir(dir, 0o700))
	s := start(t, "-state", filepath.Join(dir, "state.json"))
	require.NoError(t, os.RemoveAll(dir))
	port := freePort(t)
	_, err := s.client.CreateLoadBalancer(t.Context(), &elbsdk.CreateLoadBalancerInput{LoadBalancerName: aws.String(lbName),
		AvailabilityZones: []string{"us-east-1a"}, Listeners: []types.Listener{listener("HTTP", port, "HTTP", 80)}})
	require.ErrorContains(t, err, "InternalFailure")
	require.Empty(t, s.elb.store.doc.Load().LoadBalancers)
	_, err = net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	require.Error(t, err)
}

// Two processes with one state file would each undo what the other has saved.
func TestState_TwoProcesses(t *testing.T) {
	t.Parallel()
	args := []string{"-api", "127.0.0.1:0", "-state", filepath.Join(t.TempDir(), "state.json")}
	o, err := parse(args, io.Discard)
	require.NoError(t, err)
	first, err := open(o, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	_, err = open(o, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "another process uses it")
	first.close()
	second, err := open(o, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	second.close()
}

// A restart keeps everything, the sessions of clients as well.
func TestState_Restart(t *testing.T) {
	t.Parallel()
	usesPortsAgain(t)
	file := filepath.Join(t.TempDir(), "state.json")
	port := freePort(t)
	var cookies visitor
	var id string
	t.Run("before", func(t *testing.T) {
		s := start(t, "-state", file)
		s.create(listener("HTTP", port, "HTTP", 80))
		s.policy("lb", classic.LBCookiePolicyType)
		s.policies(port, "lb")
		v := newVisitor(t, "http", port)
		id = v.stays()
		cookies = *v
	})
	s := start(t, "-state", file)
	s.await(inService, embeddedIDs...)
	v := newVisitorLike(&cookies)
	v.t = t
	require.Equal(t, id, v.stays())
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, document(t, s), string(text))
}
