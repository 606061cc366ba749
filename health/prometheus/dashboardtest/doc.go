// Package dashboardtest has nothing but tests: of the Grafana dashboard of package prometheus, against
// Grafana's schema, and of its queries, against a Prometheus that has scraped pools with traffic. It
// is a module of its own because nobody else needs Grafana's schema.
package dashboardtest
