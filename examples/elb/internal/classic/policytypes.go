package classic

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// The types of policies.
const (
	LBCookiePolicyType              = "LBCookieStickinessPolicyType"
	AppCookiePolicyType             = "AppCookieStickinessPolicyType"
	ProxyProtocolPolicyType         = "ProxyProtocolPolicyType"
	PublicKeyPolicyType             = "PublicKeyPolicyType"
	BackendAuthenticationPolicyType = "BackendServerAuthenticationPolicyType"
	SSLNegotiationPolicyType        = "SSLNegotiationPolicyType"
)

// DefaultNegotiation is the negotiation policy of TLS listeners that name none.
const DefaultNegotiation = "ELBSecurityPolicy-2016-08"

const (
	referencePolicy = "Reference-Security-Policy"

	// ServerCipherOrder is the attribute that puts the server's order of ciphers first.
	ServerCipherOrder = "Server-Defined-Cipher-Order"
)

// How often an attribute may be there.
const (
	one        = "ONE"
	zeroOrOne  = "ZERO_OR_ONE"
	oneOrMore  = "ONE_OR_MORE"
	zeroOrMore = "ZERO_OR_MORE"
)

// A policyType says which attributes a policy has. check returns what is wrong with a value.
type policyType struct {
	PolicyTypeDescription
	check func(attribute, value string) string
}

var policyTypes = []policyType{
	{describe(LBCookiePolicyType, "Sticks to an instance by a cookie of the load balancer, for a period.",
		attribute("CookieExpirationPeriod", "Long", zeroOrOne, "0")), checkPeriod},
	{describe(AppCookiePolicyType, "Sticks to an instance for as long as a cookie of the application lasts.",
		attribute("CookieName", "String", one, "")), checkCookieName},
	{describe(ProxyProtocolPolicyType, "Begins connections to instances with a PROXY header of version 1.",
		attribute("ProxyProtocol", "Boolean", one, "")), checkBool},
	{describe(PublicKeyPolicyType, "Has a public key, as PEM or in base64, for back-end authentication.",
		attribute("PublicKey", "String", one, "")), checkPublicKey},
	{describe(BackendAuthenticationPolicyType, "Accepts only instances that have one of the public keys.",
		attribute("PublicKeyPolicyName", "PolicyName", oneOrMore, "")), nil},
	{describe(SSLNegotiationPolicyType, "Says which versions and ciphers of TLS clients may use, as far as Go has them.",
		negotiationAttributes()...), checkNegotiation},
}

func describe(name, text string, attributes ...PolicyAttributeTypeDescription) PolicyTypeDescription {
	return PolicyTypeDescription{name, text, attributes}
}

func attribute(name, kind, cardinality, standard string) PolicyAttributeTypeDescription {
	a := PolicyAttributeTypeDescription{AttributeName: name, AttributeType: kind, Cardinality: cardinality}
	if standard != "" {
		a.DefaultValue = &standard
	}
	return a
}

func policyTypeOf(name string) *policyType {
	i := slices.IndexFunc(policyTypes, func(t policyType) bool { return t.PolicyTypeName == name })
	if i < 0 {
		return nil
	}
	return &policyTypes[i]
}

// fill returns all attributes of a policy, given and default ones, in the order of the type.
func (t *policyType) fill(given []PolicyAttribute) ([]PolicyAttribute, *Fault) {
	if t.PolicyTypeName == SSLNegotiationPolicyType {
		var err *Fault
		if given, err = expandReference(given); err != nil {
			return nil, err
		}
	}
	values := make(map[string][]string)
	for _, a := range given {
		values[a.AttributeName] = append(values[a.AttributeName], a.AttributeValue)
	}
	filled := []PolicyAttribute{}
	for _, a := range t.PolicyAttributeTypeDescriptions {
		got := values[a.AttributeName]
		delete(values, a.AttributeName)
		if len(got) == 0 && a.DefaultValue != nil {
			got = []string{*a.DefaultValue}
		}
		if len(got) == 0 && (a.Cardinality == one || a.Cardinality == oneOrMore) ||
			len(got) > 1 && (a.Cardinality == one || a.Cardinality == zeroOrOne) {
			return nil, NewFault(InvalidConfigurationRequest, "The attribute %s is there %d times, but should be %s.",
				a.AttributeName, len(got), a.Cardinality)
		}
		for _, value := range got {
			if t.check != nil {
				if problem := t.check(a.AttributeName, value); problem != "" {
					return nil, NewFault(InvalidConfigurationRequest, "The attribute %s has the value %q, which %s.", a.AttributeName, value, problem)
				}
			}
			filled = append(filled, PolicyAttribute{a.AttributeName, value})
		}
	}
	for name := range values {
		return nil, NewFault(InvalidConfigurationRequest, "Policies of the type %s have no attribute %q.", t.PolicyTypeName, name)
	}
	if t.PolicyTypeName == SSLNegotiationPolicyType && !negotiable(filled) {
		return nil, NewFault(InvalidConfigurationRequest, "The policy leaves no version or no cipher that Go has.")
	}
	return filled, nil
}

const maxPeriod = 1 << 33 // seconds, so that a time.Duration can hold them

func checkPeriod(_, value string) string {
	if n, err := strconv.ParseInt(value, 10, 64); err != nil || n < 0 || n > maxPeriod {
		return "is not a number of seconds"
	}
	return ""
}

func checkCookieName(_, value string) string {
	if !httpguts.ValidHeaderFieldName(value) || len(value) > 1024 {
		return "is not the name of a cookie"
	}
	return ""
}

func checkBool(_, value string) string {
	if value != "true" && value != "false" {
		return "is neither true nor false"
	}
	return ""
}

func checkPublicKey(_, value string) string {
	if _, err := ParsePublicKey(value); err != nil {
		return "is not a public key"
	}
	return ""
}

// ParsePublicKey returns the DER of a public key, which is PEM or base64.
func ParsePublicKey(text string) ([]byte, error) {
	der := []byte(nil)
	if block, _ := pem.Decode([]byte(text)); block != nil {
		der = block.Bytes
	} else {
		var err error
		if der, err = base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), "")); err != nil {
			return nil, err
		}
	}
	_, err := x509.ParsePKIXPublicKey(der)
	return der, err
}

// Versions are the attributes of the versions of TLS that Go has. SSLv3 is not among them.
var Versions = map[string]uint16{
	"Protocol-TLSv1": tls.VersionTLS10, "Protocol-TLSv1.1": tls.VersionTLS11, "Protocol-TLSv1.2": tls.VersionTLS12,
}

// Ciphers are the attributes of the ciphers that Go has.
var Ciphers = map[string]uint16{
	"ECDHE-ECDSA-AES128-GCM-SHA256": tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	"ECDHE-RSA-AES128-GCM-SHA256":   tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	"ECDHE-ECDSA-AES128-SHA256":     tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256,
	"ECDHE-RSA-AES128-SHA256":       tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256,
	"ECDHE-ECDSA-AES128-SHA":        tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA,
	"ECDHE-RSA-AES128-SHA":          tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA,
	"ECDHE-ECDSA-AES256-GCM-SHA384": tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	"ECDHE-RSA-AES256-GCM-SHA384":   tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	"ECDHE-RSA-AES256-SHA":          tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA,
	"ECDHE-ECDSA-AES256-SHA":        tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA,
	"AES128-GCM-SHA256":             tls.TLS_RSA_WITH_AES_128_GCM_SHA256,
	"AES128-SHA256":                 tls.TLS_RSA_WITH_AES_128_CBC_SHA256,
	"AES128-SHA":                    tls.TLS_RSA_WITH_AES_128_CBC_SHA,
	"AES256-GCM-SHA384":             tls.TLS_RSA_WITH_AES_256_GCM_SHA384,
	"AES256-SHA":                    tls.TLS_RSA_WITH_AES_256_CBC_SHA,
	"DES-CBC3-SHA":                  tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA,
}

// versionNames and cipherNames are in the order in which policies describe them. Some ciphers are
// only described, because Go does not have them.
var (
	versionNames = []string{"Protocol-SSLv3", "Protocol-TLSv1", "Protocol-TLSv1.1", "Protocol-TLSv1.2"}
	cipherNames  = []string{
		"ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA256",
		"ECDHE-RSA-AES128-SHA256", "ECDHE-ECDSA-AES128-SHA", "ECDHE-RSA-AES128-SHA", "DHE-RSA-AES128-SHA",
		"ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES256-SHA384",
		"ECDHE-RSA-AES256-SHA384", "ECDHE-RSA-AES256-SHA", "ECDHE-ECDSA-AES256-SHA", "AES128-GCM-SHA256",
		"AES128-SHA256", "AES128-SHA", "AES256-GCM-SHA384", "AES256-SHA256", "AES256-SHA", "DHE-DSS-AES128-SHA",
		"CAMELLIA128-SHA", "EDH-RSA-DES-CBC3-SHA", "DES-CBC3-SHA", "ECDHE-RSA-RC4-SHA", "RC4-SHA",
	}
)

func negotiationAttributes() []PolicyAttributeTypeDescription {
	all := []PolicyAttributeTypeDescription{attribute(referencePolicy, "String", zeroOrOne, "")}
	for _, name := range versionNames {
		all = append(all, attribute(name, "Boolean", zeroOrOne, "false"))
	}
	all = append(all, attribute(ServerCipherOrder, "Boolean", zeroOrOne, "false"))
	for _, name := range cipherNames {
		all = append(all, attribute(name, "Boolean", zeroOrOne, "false"))
	}
	return all
}

func checkNegotiation(attribute, value string) string {
	if attribute == referencePolicy {
		return "" // expandReference has looked it up
	}
	return checkBool(attribute, value)
}

// negotiable reports whether a version and a cipher are left.
func negotiable(attributes []PolicyAttribute) bool {
	on := func(names map[string]uint16) bool {
		return slices.ContainsFunc(attributes, func(a PolicyAttribute) bool {
			_, ok := names[a.AttributeName]
			return ok && a.AttributeValue == "true"
		})
	}
	return on(Versions) && on(Ciphers)
}

// expandReference adds the attributes of the sample policy that given refers to. An attribute that
// is given again rules.
func expandReference(given []PolicyAttribute) ([]PolicyAttribute, *Fault) {
	i := slices.IndexFunc(given, func(a PolicyAttribute) bool { return a.AttributeName == referencePolicy })
	if i < 0 {
		return given, nil
	}
	sample := samplePolicy(given[i].AttributeValue)
	if sample == nil {
		return nil, NewFault(InvalidConfigurationRequest, "There is no sample policy %q.", given[i].AttributeValue)
	}
	expanded := slices.Clone(given)
	for _, a := range sample.Attributes {
		if !slices.ContainsFunc(given, func(g PolicyAttribute) bool { return g.AttributeName == a.AttributeName }) {
			expanded = append(expanded, a)
		}
	}
	return expanded, nil
}

// samples are the policies that every account has.
var samples = []Policy{
	sample("ELBSecurityPolicy-2016-08", "Protocol-TLSv1", all),
	sample("ELBSecurityPolicy-TLS-1-1-2017-01", "Protocol-TLSv1.1", all),
	sample("ELBSecurityPolicy-TLS-1-2-2017-01", "Protocol-TLSv1.2", func(cipher string) bool { return !strings.HasSuffix(cipher, "-SHA") }),
	sample("ELBSecurityPolicy-2015-05", "Protocol-TLSv1", all, "DES-CBC3-SHA"),
}

func all(string) bool { return true }

// modern are the ciphers of the samples.
func modern(cipher string) bool {
	return strings.Contains(cipher, "AES") && !strings.HasPrefix(cipher, "DHE-")
}

func sample(name, lowest string, keep func(cipher string) bool, more ...string) Policy {
	p := Policy{Name: name, Type: SSLNegotiationPolicyType}
	add := func(attribute string, on bool) {
		p.Attributes = append(p.Attributes, PolicyAttribute{attribute, strconv.FormatBool(on)})
	}
	p.Attributes = append(p.Attributes, PolicyAttribute{referencePolicy, name})
	for i, version := range versionNames {
		add(version, i >= slices.Index(versionNames, lowest))
	}
	add(ServerCipherOrder, true)
	for _, cipher := range cipherNames {
		add(cipher, modern(cipher) && keep(cipher) || slices.Contains(more, cipher))
	}
	return p
}

func samplePolicy(name string) *Policy {
	i := slices.IndexFunc(samples, func(p Policy) bool { return p.Name == name })
	if i < 0 {
		return nil
	}
	return &samples[i]
}
