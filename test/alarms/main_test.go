package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"preauth/internal/leak"
	"preauth/internal/mysqlserver"
)

// ruleFile has the alerts.
const ruleFile = "../../deploy/prometheus/rules.yml"

// mysql is the database server of the systems whose faults do not need one of their own.
var mysql *mysqlserver.Server

func TestMain(m *testing.M) {
	// The tests mostly wait.
	err := flag.Set("test.parallel", "32")
	if err == nil {
		mysql, err = mysqlserver.Start(context.Background(), mysqlserver.TestOptions())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := m.Run()
	err = mysql.Close()
	if err == nil && status == 0 {
		err = leak.Find()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}
