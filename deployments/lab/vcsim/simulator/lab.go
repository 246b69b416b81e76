// What govmomi 0.24.2's simulator lacks and Cloudloom needs. The build lays this file over the
// package (`go build -overlay`). A method is found by its name: FooTask serves Foo_Task.
package simulator

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"sync"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator/esx"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// ---- VMs

// setExtraConfig replaces a key, and removes it when the value is empty: 0.24.2 only appends.
func (vm *VirtualMachine) setExtraConfig(option types.BaseOptionValue) {
	key := option.GetOptionValue().Key
	var kept []types.BaseOptionValue
	for _, each := range vm.Config.ExtraConfig {
		if each.GetOptionValue().Key != key {
			kept = append(kept, each)
		}
	}
	if option.GetOptionValue().Value != "" {
		kept = append(kept, option)
	}
	vm.Config.ExtraConfig = kept
}

// ---- software iSCSI: static targets are logged in to for real, by qemu-img

type chap struct{ user, password string }

var (
	chaps      = map[string]chap{} // by host and target; nobody reads them over the wire
	chapsMutex sync.Mutex
)

// own gives this host its private storage: 0.24.2 lets all hosts share one.
func (s *HostStorageSystem) own() {
	if s.StorageDeviceInfo == &esx.HostStorageDeviceInfo {
		info := new(types.HostStorageDeviceInfo)
		deepCopy(s.StorageDeviceInfo, info)
		s.StorageDeviceInfo = info
	}
}

// publish shows a change under the host's config.storageDevice too.
func (s *HostStorageSystem) publish() {
	if s.Host.Config != nil {
		s.Host.Config.StorageDevice = s.StorageDeviceInfo
	}
}

func (s *HostStorageSystem) iscsi(device string) (*types.HostInternetScsiHba, types.BaseMethodFault) {
	for _, each := range s.StorageDeviceInfo.HostBusAdapter {
		if hba, ok := each.(*types.HostInternetScsiHba); ok && (device == "" || hba.Device == device) {
			return hba, nil
		}
	}
	return nil, &types.NotFound{}
}

func (s *HostStorageSystem) UpdateSoftwareInternetScsiEnabled(_ *Context, req *types.UpdateSoftwareInternetScsiEnabled) soap.HasFault {
	s.own()
	var others []types.BaseHostHostBusAdapter
	for _, each := range s.StorageDeviceInfo.HostBusAdapter {
		if _, ok := each.(*types.HostInternetScsiHba); !ok {
			others = append(others, each)
		}
	}
	if _, missing := s.iscsi(""); !req.Enabled {
		s.StorageDeviceInfo.HostBusAdapter = others
	} else if missing != nil {
		s.StorageDeviceInfo.HostBusAdapter = append(others, &types.HostInternetScsiHba{
			HostHostBusAdapter: types.HostHostBusAdapter{
				Key: "key-vim.host.InternetScsiHba-vmhba65", Device: "vmhba65", Status: "online",
				Model: "iSCSI Software Adapter", Driver: "iscsi_vmk",
			},
			IsSoftwareBased: true,
			IScsiName:       "iqn.1998-01.com.vmware:" + s.Host.Self.Value,
		})
	}
	s.StorageDeviceInfo.SoftwareInternetScsiEnabled = req.Enabled
	s.publish()
	return &methods.UpdateSoftwareInternetScsiEnabledBody{Res: &types.UpdateSoftwareInternetScsiEnabledResponse{}}
}

func same(a, b types.HostInternetScsiHbaStaticTarget) bool {
	return a.Address == b.Address && a.Port == b.Port && a.IScsiName == b.IScsiName
}

func (s *HostStorageSystem) AddInternetScsiStaticTargets(_ *Context, req *types.AddInternetScsiStaticTargets) soap.HasFault {
	body := &methods.AddInternetScsiStaticTargetsBody{}
	hba, fault := s.iscsi(req.IScsiHbaDevice)
	if fault != nil {
		body.Fault_ = Fault("", fault)
		return body
	}
	for _, target := range req.Targets {
		known := false
		for _, each := range hba.ConfiguredStaticTarget {
			known = known || same(each, target)
		}
		if !known {
			target.AuthenticationProperties = nil // set by a call of its own, as on ESXi
			hba.ConfiguredStaticTarget = append(hba.ConfiguredStaticTarget, target)
		}
	}
	body.Res = &types.AddInternetScsiStaticTargetsResponse{}
	return body
}

func (s *HostStorageSystem) UpdateInternetScsiAuthenticationProperties(_ *Context, req *types.UpdateInternetScsiAuthenticationProperties) soap.HasFault {
	body := &methods.UpdateInternetScsiAuthenticationPropertiesBody{}
	hba, fault := s.iscsi(req.IScsiHbaDevice)
	if fault != nil {
		body.Fault_ = Fault("", fault)
		return body
	}
	chapsMutex.Lock()
	defer chapsMutex.Unlock()
	if req.TargetSet != nil {
		for _, target := range req.TargetSet.StaticTargets {
			found := false
			for _, each := range hba.ConfiguredStaticTarget {
				found = found || same(each, target)
			}
			if !found {
				body.Fault_ = Fault("", &types.NotFound{})
				return body
			}
			p := req.AuthenticationProperties
			chaps[s.Host.Self.Value+target.IScsiName] = chap{p.ChapName, p.ChapSecret}
		}
	}
	body.Res = &types.UpdateInternetScsiAuthenticationPropertiesResponse{}
	return body
}

func (s *HostStorageSystem) RemoveInternetScsiStaticTargets(_ *Context, req *types.RemoveInternetScsiStaticTargets) soap.HasFault {
	body := &methods.RemoveInternetScsiStaticTargetsBody{}
	hba, fault := s.iscsi(req.IScsiHbaDevice)
	if fault != nil {
		body.Fault_ = Fault("", fault)
		return body
	}
	for _, gone := range req.Targets {
		var kept []types.HostInternetScsiHbaStaticTarget
		for _, each := range hba.ConfiguredStaticTarget {
			if !same(each, gone) {
				kept = append(kept, each)
			}
		}
		if len(kept) == len(hba.ConfiguredStaticTarget) {
			body.Fault_ = Fault("", &types.NotFound{})
			return body
		}
		hba.ConfiguredStaticTarget = kept
		chapsMutex.Lock()
		delete(chaps, s.Host.Self.Value+gone.IScsiName)
		chapsMutex.Unlock()
	}
	body.Res = &types.RemoveInternetScsiStaticTargetsResponse{}
	return body
}

// RescanHba finds the LUN 1 of every static target that lets the host in now.
func (s *HostStorageSystem) RescanHba(_ *Context, req *types.RescanHba) soap.HasFault {
	body := &methods.RescanHbaBody{}
	hba, fault := s.iscsi(req.HbaDevice)
	if fault != nil {
		body.Fault_ = Fault("", fault)
		return body
	}
	var luns []types.BaseScsiLun
	for _, each := range s.StorageDeviceInfo.ScsiLun {
		if !strings.HasPrefix(each.GetScsiLun().Key, "key-lab-") {
			luns = append(luns, each)
		}
	}
	topology := types.HostScsiTopologyInterface{Key: "key-lab-interface", Adapter: hba.Key}
	for _, target := range hba.ConfiguredStaticTarget {
		size, ok := s.logIn(hba.IScsiName, target)
		if !ok {
			continue
		}
		name := "naa.6" + strings.Replace(uuid.NewSHA1(uuid.NameSpaceURL, []byte(target.IScsiName)).String(), "-", "", -1)[:31]
		device := types.HostDevice{DeviceName: "/vmfs/devices/disks/" + name, DeviceType: "disk"}
		lun := types.ScsiLun{HostDevice: device, Key: "key-lab-" + name, Uuid: name, CanonicalName: name, LunType: "disk", OperationalState: []string{"ok"}}
		luns = append(luns, &types.HostScsiDisk{
			ScsiLun:    lun,
			Capacity:   types.HostDiskDimensionsLba{BlockSize: 512, Block: size / 512},
			DevicePath: device.DeviceName,
		})
		topology.Target = append(topology.Target, types.HostScsiTopologyTarget{
			Key:    "key-lab-target-" + name,
			Target: int32(len(topology.Target)),
			Lun:    []types.HostScsiTopologyLun{{Key: "key-lab-lun-" + name, Lun: 1, ScsiLun: lun.Key}},
			Transport: &types.HostInternetScsiTargetTransport{
				IScsiName: target.IScsiName,
				Address:   []string{fmt.Sprintf("%s:%d", target.Address, target.Port)},
			},
		})
	}
	adapters := []types.HostScsiTopologyInterface{topology}
	if s.StorageDeviceInfo.ScsiTopology == nil {
		s.StorageDeviceInfo.ScsiTopology = new(types.HostScsiTopology)
	}
	for _, each := range s.StorageDeviceInfo.ScsiTopology.Adapter {
		if each.Key != topology.Key {
			adapters = append(adapters, each)
		}
	}
	s.StorageDeviceInfo.ScsiLun = luns
	s.StorageDeviceInfo.ScsiTopology.Adapter = adapters
	s.publish()
	body.Res = &types.RescanHbaResponse{}
	return body
}

func (s *HostStorageSystem) logIn(initiator string, target types.HostInternetScsiHbaStaticTarget) (int64, bool) {
	chapsMutex.Lock()
	who := chaps[s.Host.Self.Value+target.IScsiName]
	chapsMutex.Unlock()
	arguments := []string{"5", "qemu-img", "info", "--output=json"}
	login := ""
	if who.user != "" {
		arguments = append(arguments, "--object", "secret,id=chap,file=/dev/stdin")
		login = fmt.Sprintf(",user=%s,password-secret=chap", who.user)
	}
	arguments = append(arguments, "--image-opts", "--", fmt.Sprintf(
		"driver=iscsi,transport=tcp,portal=%s:%d,target=%s,lun=1,initiator-name=%s%s",
		target.Address, target.Port, target.IScsiName, initiator, login))
	program := exec.Command("timeout", arguments...)
	program.Stdin = strings.NewReader(who.password)
	out, err := program.Output()
	if err != nil {
		return 0, false
	}
	var told struct {
		Size int64 `json:"virtual-size"`
	}
	if json.Unmarshal(out, &told) != nil {
		return 0, false
	}
	return told.Size, true
}
