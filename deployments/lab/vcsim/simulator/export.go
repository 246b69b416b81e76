// Exports through a lease, which govmomi 0.24.2's simulator lacks: what is sent is a
// streamOptimized VMDK of what the guest sees.
package simulator

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// ExportVm answers a lease for the disks of a VM that is off; one with a LUN is refused.
func (vm *VirtualMachine) ExportVm(ctx *Context, _ *types.ExportVm) soap.HasFault {
	body := &methods.ExportVmBody{}
	off := types.VirtualMachinePowerStatePoweredOff
	if vm.Runtime.PowerState != off {
		body.Fault_ = Fault("", &types.InvalidPowerState{
			RequestedState: off,
			ExistingState:  vm.Runtime.PowerState,
		})
		return body
	}
	lease := NewHttpNfcLease(ctx, vm.Self)
	lease.Info.Lease = lease.Reference()
	disks := object.VirtualDeviceList(vm.Config.Hardware.Device).SelectByType((*types.VirtualDisk)(nil))
	for n, device := range disks {
		disk := device.(*types.VirtualDisk)
		backing, isFlat := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
		if !isFlat {
			body.Fault_ = Fault("", &types.NotSupported{})
			return body
		}
		var file object.DatastorePath
		file.FromString(backing.FileName)
		name := fmt.Sprintf("disk-%d.vmdk", n)
		store := vm.findDatastore(file.Datastore).Info.GetDatastoreInfo().Url
		lease.files[name] = path.Join(store, file.Path)
		lease.Info.TotalDiskCapacityInKB += disk.CapacityInKB
		lease.Info.DeviceUrl = append(lease.Info.DeviceUrl, types.HttpNfcLeaseDeviceUrl{
			Key: fmt.Sprintf("/%s/VirtualDisk:%d", vm.Self.Value, n),
			Url: (&url.URL{
				Scheme: "https",
				Host:   "*",
				Path:   nfcPrefix + path.Join(lease.Reference().Value, name),
			}).String(),
			Disk:     types.NewBool(true),
			TargetId: name,
		})
	}
	body.Res = &types.ExportVmResponse{Returnval: lease.Reference()}
	return body
}

// exported opens what is sent of a disk's file.
func exported(file string, open func(string) (*os.File, error)) (*os.File, error) {
	if path.Ext(file) != ".vmdk" {
		return open(file)
	}
	stream := file + ".export"
	defer os.Remove(stream)
	arguments := []string{
		"convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized",
		"--", vdmNames(file)[0], stream,
	}
	if out, err := exec.Command("qemu-img", arguments...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: %s", err, out)
	}
	return os.Open(stream)
}

// fill gives a child disk what its parent has: a guest sees the one through the other.
func fill(child *os.File, parent string) error {
	file, err := os.Open(vdmNames(parent)[0])
	if err != nil {
		return err
	}
	defer file.Close()
	piece, nothing := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := int64(0); ; {
		n, err := file.ReadAt(piece, at)
		if n > 0 && string(piece[:n]) != string(nothing[:n]) {
			if _, err := child.WriteAt(piece[:n], at); err != nil {
				return err
			}
		}
		if err != nil {
			return nil // its end
		}
		at += int64(n)
	}
}
