// A vCenter, or with -esx a single ESXi, made of govmomi's simulator package: Debian ships that as
// a library only. Prints "URL https://..." and the SHA-256 of its certificate once it listens.
// Who may log in is said by VCSIM_USER and VCSIM_PASSWORD.
package main

import (
	"crypto/sha256"
	"crypto/tls"
	"flag"
	"fmt"
	"log"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"github.com/vmware/govmomi/simulator"
)

func main() {
	esx := flag.Bool("esx", false, "a single ESXi instead of a vCenter")
	listen := flag.String("listen", "127.0.0.1:0", "address to listen at")
	hosts := flag.Int("hosts", 2, "hosts of the vCenter, in one cluster")
	datastores := flag.Int("datastores", 1, "datastores, shared by all hosts")
	delay := flag.Int("delay", 0, "milliseconds that each call takes beside its work")
	flag.Parse()

	model := simulator.VPX()
	if *esx {
		model = simulator.ESX()
	}
	model.Machine, model.Datastore = 0, *datastores
	if !*esx {
		model.Host, model.ClusterHost = 0, *hosts
	}
	model.DelayConfig.Delay = *delay
	if err := model.Create(); err != nil {
		log.Fatal(err)
	}
	defer model.Remove() // its datastores are temporary directories

	user := url.UserPassword(os.Getenv("VCSIM_USER"), os.Getenv("VCSIM_PASSWORD"))
	model.Service.Listen = &url.URL{Host: *listen, User: user}
	model.Service.TLS = new(tls.Config)
	server := model.Service.NewServer()
	defer server.Close()
	fmt.Printf("URL https://%s\n", server.URL.Host)
	fmt.Printf("SHA256 %x\n", sha256.Sum256(server.TLS.Certificates[0].Certificate[0]))

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	<-stop
}
