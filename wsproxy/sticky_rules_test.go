package wsproxy_test

import (
	"net/http"
	"net/http/httputil"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// sessionRules are the tests of the rules about sessions (S) that need a client and a proxy.
var sessionRules = map[string]func(*testing.T){
	"S1_CookieOnTheWire":                       TestProxy_S1_CookieOnTheWire,
	"S1_ValueTellsNothing":                     TestProxy_S1_ValueTellsNothing,
	"S2_S3_FirstRequestBindsTheOthersStay":     TestProxy_S2_S3_FirstRequestBindsTheOthersStay,
	"S3_ExpiryIsTheClientsUnlessEnforced":      TestProxy_S3_ExpiryIsTheClientsUnlessEnforced,
	"S4_LifetimeIsComputedForEachResponse":     TestProxy_S4_LifetimeIsComputedForEachResponse,
	"S5_TwinForCrossOrigin":                    TestProxy_S5_TwinForCrossOrigin,
	"S5_EitherCookieRoutes":                    TestProxy_S5_EitherCookieRoutes,
	"S6_SecureAndHttpOnlyAreTheCallers":        TestProxy_S6_SecureAndHttpOnlyAreTheCallers,
	"S7_UnableTargetRebinds":                   TestProxy_S7_UnableTargetRebinds,
	"S7_DeadBoundTargetTakesNoBodyAway":        TestProxy_S7_DeadBoundTargetTakesNoBodyAway,
	"S7_OnMiss":                                TestProxy_S7_OnMiss,
	"S7_OnMissIsAskedOnlyOnAMiss":              TestProxy_S7_OnMissIsAskedOnlyOnAMiss,
	"S7_OnMissIsAskedOnceAboutTheFirst":        TestProxy_S7_OnMissIsAskedOnceAboutTheFirst,
	"S8_BoundByBothCookiesOnly":                TestProxy_S8_BoundByBothCookiesOnly,
	"S9_InsertedWithTheApplicationsCookieOnly": TestProxy_S9_InsertedWithTheApplicationsCookieOnly,
	"S10_AttributesCarryOver":                  TestProxy_S10_AttributesCarryOver,
	"S10_TwoSpellingsOfAPath":                  TestProxy_S10_TwoSpellingsOfAPath,
	"S11_DeletionFollowsApp":                   TestProxy_S11_DeletionFollowsApp,
	"S12_TrailingSemicolonIsIgnored":           TestProxy_S12_TrailingSemicolonIsIgnored,
	"S12_NoticesOnce":                          TestProxy_S12_NoticesOnce,
	"S13_FailoverSticksToTheNewTarget":         TestProxy_S13_FailoverSticksToTheNewTarget,
	"S13_ExpiryTravelsInTheValue":              TestProxy_S13_ExpiryTravelsInTheValue,
	"S13_DetourKeepsTheBinding":                TestProxy_S13_DetourKeepsTheBinding,
	"S14_LastLineRules":                        TestProxy_S14_LastLineRules,
	"S15_ScopesShareAHost":                     TestProxy_S15_ScopesShareAHost,
	"S15_AnotherPortIsAnotherTarget":           TestProxy_S15_AnotherPortIsAnotherTarget,
	"S16_UnusableCookiesAreReplaced":           TestProxy_S16_UnusableCookiesAreReplaced,
	"S16_InstancesShareKeys":                   TestProxy_S16_InstancesShareKeys,
	"S16_WithoutKeysInstancesAreStrangers":     TestProxy_S16_WithoutKeysInstancesAreStrangers,
	"S17_FirstUsableOfSixtyFourWins":           TestProxy_S17_FirstUsableOfSixtyFourWins,
	"S18_NeverBackToTheTargetThatFailed":       TestProxy_S18_NeverBackToTheTargetThatFailed,
	"S18_SecondCandidateAfterAFailedFirst":     TestProxy_S18_SecondCandidateAfterAFailedFirst,
	"S19_CookieSurvivesEarlyHints":             TestProxy_S19_CookieSurvivesEarlyHints,
	"S19_CookieOnEveryFinalStatusOfTheBackend": TestProxy_S19_CookieOnEveryFinalStatusOfTheBackend,
	"S19_NoCookieOnAnErrorPage":                TestProxy_S19_NoCookieOnAnErrorPage,
	"S20_BackendNeverSeesTheCookie":            TestProxy_S20_BackendNeverSeesTheCookie,
	"S21_NotForSharedCaches":                   TestProxy_S21_NotForSharedCaches,
	"S22_WhoServesWhileATargetLeaves":          TestProxy_S22_WhoServesWhileATargetLeaves,
	"S22_DownIsNobodyEvenAlone":                TestProxy_S22_DownIsNobodyEvenAlone,
	"S24_KeyRotation":                          TestProxy_S24_KeyRotation,
	"S25_SessionsBeyondTheShareAreRebound":     TestProxy_S25_SessionsBeyondTheShareAreRebound,
	"S25_TicketDecides":                        TestProxy_S25_TicketDecides,
	"S25_UndatedSessionsGoByTheAddress":        TestProxy_S25_UndatedSessionsGoByTheAddress,
	"B4_FullTargetIsADetour":                   TestProxy_B4_FullTargetIsADetour,
	"B4_FullTargetAndOnMiss":                   TestProxy_B4_FullTargetAndOnMiss,
}

// stickyDiffers has the tests that cannot pass around a ReverseProxy, and the reasons. They run in
// front of the Proxy only. What the Sticky does instead is in the tests below.
var stickyDiffers = []struct {
	tests *regexp.Regexp
	why   string
	met   *atomic.Bool // by a test
}{
	{regexp.MustCompile(`/S7_[^/]*/.*dead$`), "nothing is retried, and the target refuses connections", new(atomic.Bool)},
	{regexp.MustCompile(`/S7_DeadBoundTargetTakesNoBodyAway/`), "nothing is retried, least of all with a body", new(atomic.Bool)},
	{regexp.MustCompile(`/S7_OnMissIsAskedOnceAboutTheFirst$`), "nothing is retried, and the picker's target is dead", new(atomic.Bool)},
	{regexp.MustCompile(`/S13_FailoverSticksToTheNewTarget/.*dead$`), "nothing is retried", new(atomic.Bool)},
	{regexp.MustCompile(`/S13_(ExpiryTravelsInTheValue|DetourKeepsTheBinding)$`), "nothing is retried, and the bound target is dead", new(atomic.Bool)},
	{regexp.MustCompile(`/S18_`), "nothing is retried", new(atomic.Bool)},
	{regexp.MustCompile(`/S19_NoCookieOnAnErrorPage/upgrade_has_a_body$`), "the handler decides which upgrades it accepts", new(atomic.Bool)},
}

// The rules about sessions hold for a Sticky around a plain ReverseProxy, except for the tests in
// stickyDiffers. Each row of stickyDiffers names an existing test.
func TestSticky_SessionRules(t *testing.T) {
	ran := 0
	for name, test := range sessionRules {
		t.Run(name, func(t *testing.T) {
			ran++
			test(t)
		})
	}
	if ran < len(sessionRules) {
		return // -run has left some out
	}
	for _, d := range stickyDiffers {
		require.True(t, d.met.Load(), "no test is %s", d.tests)
	}
}

// If the target refuses connections, the handler answers 502 and reports the failure. It is called
// once. No session is bound, and an existing binding stays. OnMiss is not called, because the pool
// did not know of the failure.
func TestSticky_S7_S13_S18_DeadTargetIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	app, err := stickiness.NewAppCookie(stickiness.AppCookieOptions{Cookie: "SID", Keys: [][]byte{key}})
	require.NoError(t, err)
	policies := map[string]stickiness.Policy{
		"LBCookie": lbCookie(t, stickiness.LBCookieOptions{}), "AppCookie": app,
	}
	for name, policy := range policies {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, nil)
			p.b.stop()
			v := observed(t, p.pool)
			calls := 0
			proxy := balancedProxy(t, nil)
			s := sticky(t, p.pool)
			s.Policy = policy
			s.OnMiss = func(*http.Request, string, error) wsproxy.Miss {
				t.Error("OnMiss was asked")
				return wsproxy.Rebind
			}
			c := newClient(t, serve(t, s.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				calls++
				proxy.ServeHTTP(w, r)
			})))).withoutCookies()
			p.picker.to("b")
			for i, sent := range [][]string{nil, {bound(t, "b"), "Cookie: SID=1"}} {
				r := c.do(http.MethodPost, "/", strings.NewReader("body"), sent...)
				require.Equal(t, http.StatusBadGateway, r.StatusCode)
				require.Empty(t, r.Header["Set-Cookie"])
				require.Equal(t, balancer.ConnectFailed.String(), v.next(t).Class.String())
				require.Equal(t, i+1, calls)
			}
			require.Zero(t, p.a.asked.Load())
		})
	}
}

// Any status is an answer of the target. No other target is tried.
func TestSticky_S18_StatusIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	p := newPair(t, refusing)
	r := newClient(t, serve(t, sticky(t, p.pool).Handler(balancedProxy(t, nil)))).get("/")
	require.Equal(t, http.StatusServiceUnavailable, r.StatusCode)
	require.Equal(t, "yes", r.Header.Get("X-Failed"))
	requireBound(t, r, "a")
	require.Zero(t, p.b.asked.Load())
}

// The handler decides about an upgrade with a body. Its answer counts as one of the target.
func TestSticky_W3_UpgradeWithABody(t *testing.T) {
	t.Parallel()
	pool, _ := shards(t, "a")
	c := dial(t, serve(t, sticky(t, pool).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		echo(w, r)
	}))))
	c.send(strings.Replace(upgrade(), "\r\n\r\n", "\r\nContent-Length: 4\r\n\r\nbody", 1))
	r := c.response()
	require.Equal(t, http.StatusOK, r.StatusCode)
	require.Equal(t, "body", r.body)
	requireBound(t, r, "a")
	require.Zero(t, settledLoad(t, pool, "a"))
}

// underTest returns the handler that a test is about. In a test of Sticky, that is a Sticky with
// the settings of the Proxy, around a ReverseProxy with its transport, unless the test is in
// stickyDiffers.
func underTest(t testing.TB, h http.Handler) http.Handler {
	p, ok := h.(*wsproxy.Proxy)
	if !ok || !strings.HasPrefix(t.Name(), "TestSticky_SessionRules/") {
		return h
	}
	for _, d := range stickyDiffers {
		if d.tests.MatchString(t.Name()) {
			d.met.Store(true)
			return h
		}
	}
	s := &wsproxy.Sticky{
		Pool: p.Pool, Policy: p.Policy, Key: p.Key, MaxPerKey: p.MaxPerKey, PerKeyStatus: p.PerKeyStatus, OnMiss: p.OnMiss,
		Trusted: p.Trusted, TrustUnix: p.TrustUnix, RFC7239: p.RFC7239, Upgrades: p.Upgrades, Tunnels: p.Tunnels,
		ErrorPage: p.ErrorPage, Trace: p.Trace, Logger: p.Logger,
	}
	if s.Logger == nil {
		s.Logger = noLog
	}
	t.Cleanup(func() { s.Close() })
	return s.Handler(balancedProxy(t, p.Transport))
}

// balancedProxy returns a ReverseProxy to the target that a Sticky has chosen.
func balancedProxy(t testing.TB, transport http.RoundTripper) *httputil.ReverseProxy {
	if transport == nil {
		own := &http.Transport{DisableCompression: true}
		t.Cleanup(own.CloseIdleConnections)
		transport = own
	}
	return &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(wsproxy.URLOf(pr.In.Context()))
			pr.Out.Host = pr.In.Host
		},
		Transport: transport,
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			wsproxy.ReportError(r.Context(), err)
			w.WriteHeader(http.StatusBadGateway)
		},
		ErrorLog: discardLog,
	}
}
