package browsertest_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/examples/browsertest"
)

// startELB starts examples/elb with a load balancer and returns the address of its API.
func startELB(t *testing.T, port int) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "elb")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".")
	build.Dir = filepath.Join("..", "elb")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	cmd := exec.Command(program, "-api", "127.0.0.1:0", "-port-offset", "0")
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		require.NoError(t, cmd.Process.Signal(os.Interrupt))
		io.Copy(io.Discard, stdout)
		require.NoError(t, cmd.Wait())
	})
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "elb accepts on "); ok {
			base, _, _ := strings.Cut(rest, " ")
			call(t, base, "CreateLoadBalancer", "Listeners.member.1.Protocol", "HTTP", "Listeners.member.1.InstancePort", "80",
				"Listeners.member.1.LoadBalancerPort", fmt.Sprint(port), "AvailabilityZones.member.1", "us-east-1a", "AvailabilityZones.member.2", "us-east-1b")
			call(t, base, "RegisterInstancesWithLoadBalancer", "Instances.member.1.InstanceId", "i-11111111", "Instances.member.2.InstanceId", "i-22222222")
			return base
		}
	}
	require.FailNow(t, "the program has not started")
	return ""
}

// call calls an action of the API for the load balancer. Any signature passes.
func call(t *testing.T, base, action string, parameters ...string) {
	t.Helper()
	form := url.Values{"Action": {action}, "Version": {"2012-06-01"}, "LoadBalancerName": {"shop"}}
	for i := 0; i < len(parameters); i += 2 {
		form.Set(parameters[i], parameters[i+1])
	}
	r, err := http.NewRequest("POST", base, strings.NewReader(form.Encode()))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("X-Amz-Date", "20261130T000000Z")
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=any/20261130/us-east-1/elasticloadbalancing/aws4_request, SignedHeaders=host, Signature=00")
	res, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode, string(text))
}

// described returns the stickiness of the listener as the AWS CLI describes it.
func described(t *testing.T, base string) string {
	t.Helper()
	cmd := exec.Command("/usr/bin/aws", "--endpoint-url", base, "--region", "us-east-1", "--output", "json", "elb", "describe-load-balancers", "--load-balancer-name", "shop")
	cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID=any", "AWS_SECRET_ACCESS_KEY=any")
	out, err := cmd.Output()
	require.NoError(t, err)
	var answer struct {
		LoadBalancerDescriptions []struct {
			ListenerDescriptions []struct{ PolicyNames []string }
			Policies             struct {
				LBCookieStickinessPolicies []struct {
					PolicyName             string
					CookieExpirationPeriod int
				}
				AppCookieStickinessPolicies []struct{ PolicyName, CookieName string }
			}
		}
	}
	require.NoError(t, json.Unmarshal(out, &answer))
	d := answer.LoadBalancerDescriptions[0]
	var found []string
	for _, name := range d.ListenerDescriptions[0].PolicyNames {
		for _, p := range d.Policies.LBCookieStickinessPolicies {
			if p.PolicyName == name {
				found = append(found, fmt.Sprint("lb ", p.CookieExpirationPeriod))
			}
		}
		for _, p := range d.Policies.AppCookieStickinessPolicies {
			if p.PolicyName == name {
				found = append(found, "app "+p.CookieName)
			}
		}
	}
	return strings.Join(found, ", ")
}

// The steps of the service's console, with the keyboard alone: the load balancer, its listeners,
// Manage listeners, Edit, a choice, and Save changes twice. The AWS CLI sees the result.
func TestELBConsole(t *testing.T) {
	browsertest.Program(t)
	if err := exec.Command("/usr/bin/aws", "--version").Run(); err != nil && os.Getenv("CI") == "" {
		t.Skip("awscli is not installed")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	base := startELB(t, port)
	tab := startBrowser(t)
	p := &page{t: t, ctx: tab, clicked: map[string]bool{}}
	p.do(chromedp.EmulateViewport(900, 900), chromedp.Navigate(base))

	until := func(expression string) { // every step is a new document
		t.Helper()
		require.Eventually(t, func() bool {
			so, err := chromedp.Run(tab, chromedp.Evaluate[bool]("document.readyState === 'complete' && "+expression))
			return err == nil && so
		}, patience, glance, expression)
	}
	see := func(text string) { t.Helper(); until(`document.body.innerText.includes('` + text + `')`) }
	shot := func(name string) {
		dir := os.Getenv("SCREENSHOTS")
		if dir == "" {
			return
		}
		picture, err := chromedp.Run(tab, chromedp.CaptureScreenshot())
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o644))
	}
	// reach moves the focus with the tabulator until it is on an element.
	reach := func(selector string) {
		t.Helper()
		for range 40 {
			p.do(chromedp.KeyEvent(kb.Tab))
			on, err := chromedp.Run(tab, chromedp.Evaluate[bool](`document.activeElement.matches(`+"`"+selector+"`"+`)`))
			require.NoError(t, err)
			if on {
				return
			}
		}
		require.FailNow(t, "the keyboard does not reach "+selector)
	}
	press := func(selector string) {
		t.Helper()
		reach(selector)
		p.do(chromedp.KeyEvent(kb.Enter))
	}
	edit := func() {
		t.Helper()
		press(`a[href="/?lb=shop&tab=manage"]`)
		see("Manage listeners")
		press(fmt.Sprintf("#edit-%d", port))
		until(`document.activeElement.matches('dialog input[name=mode]')`)
	}
	save := func() {
		t.Helper()
		press("#dialog-save")
		see("not saved")
		shot("pending")
		press("#page-save")
		see("The changes are saved")
	}

	see("Load balancers")
	shot("list")
	press(`a[href="/?lb=shop"]`)
	see("Cookie stickiness")
	see("disabled")
	shot("listeners")

	edit()
	shot("dialog")
	p.do(chromedp.KeyEvent(kb.ArrowDown)) // from disabled to the load balancer's
	reach("[name=period]")
	p.do(chromedp.KeyEvent("60"))
	require.Empty(t, described(t, base), "nothing is saved yet")
	save()
	see("generated by load balancer, for 60 seconds")
	require.Equal(t, "lb 60", described(t, base))

	edit()
	p.do(chromedp.KeyEvent(kb.ArrowDown)) // to the application's
	reach("[name=cookie]")
	p.do(chromedp.KeyEvent("SHOP"))
	save()
	see("generated by application, cookie SHOP")
	require.Equal(t, "app SHOP", described(t, base))

	edit()
	p.do(chromedp.KeyEvent(kb.ArrowUp), chromedp.KeyEvent(kb.ArrowUp))
	save()
	require.Empty(t, described(t, base))

	// Live traffic by instance.
	for range 6 {
		res, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
		require.NoError(t, err)
		res.Body.Close()
		require.Equal(t, http.StatusOK, res.StatusCode)
	}
	press(`a[href="/?lb=shop&tab=instances"]`)
	see("InService")
	until(`[...document.querySelectorAll('tbody tr')].map(row => row.cells[3].innerText).join() === '3,3'`)
	shot("instances")
	p.do(chromedp.EmulateViewport(360, 800))
	until(`document.documentElement.scrollWidth <= 360`)
	shot("narrow")
	press(`a[href="/?lb=shop&tab=health"]`)
	see("TCP:80")

	// A wrong choice is said, and changes nothing.
	p.do(chromedp.EmulateViewport(900, 900))
	p.do(chromedp.Navigate(fmt.Sprintf("%s/?lb=shop&port=%d&mode=app&cookie=a+b", base, port)))
	press("#page-save")
	see("InvalidConfigurationRequest")
	shot("refused")
	require.Empty(t, described(t, base))
}
