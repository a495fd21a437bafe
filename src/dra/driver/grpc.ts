import { fileURLToPath } from "node:url";
import type { ServiceDefinition } from "@grpc/grpc-js";
import { loadSync, type PackageDefinition } from "@grpc/proto-loader";

/** The kubelet's gRPC services and their messages as they appear in JavaScript. */

export interface PluginInfo {
  type: "DRAPlugin";
  /** The driver's name. */
  name: string;
  /** Absolute path of the plugin's socket. */
  endpoint: string;
  supported_versions: string[];
}

export interface RegistrationStatus {
  plugin_registered: boolean;
  error: string;
}

/** A claim as the kubelet names it. */
export interface ClaimReference {
  namespace: string;
  uid: string;
  name: string;
}

export interface ClaimsRequest {
  claims: ClaimReference[];
}

export interface PreparedDeviceMessage {
  request_names: string[];
  pool_name: string;
  device_name: string;
  cdi_device_ids: string[];
  share_id?: string;
}

/** Answer for one claim; not empty `error`: it failed, the others did not. */
export interface PrepareAnswer {
  devices: PreparedDeviceMessage[];
  error: string;
}

export interface UnprepareAnswer {
  error: string;
}

/** Claim UID → answer. */
export interface ClaimsResponse<T> {
  claims: Record<string, T>;
}

export interface DeviceHealthMessage {
  device: { pool_name: string; device_name: string };
  health: "UNKNOWN" | "HEALTHY" | "UNHEALTHY";
  /** Unix seconds. */
  last_updated_time: number;
  health_check_timeout_seconds: number;
  message: string;
}

export const registrationService = load("pluginregistration-v1.proto", "pluginregistration.Registration");

/** Without the books that grpc-js keeps of every call and connection for a debugging service that nobody opens here. */
export const serverOptions = { "grpc.enable_channelz": 0 };

/** Services of the DRA socket by the short name under which they are registered, the preferred one first. */
export const draServices: ReadonlyMap<string, ServiceDefinition> = new Map([
  ["v1.DRAPlugin", load("dra-v1.proto", "k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin")],
  ["v1beta1.DRAPlugin", load("dra-v1beta1.proto", "k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin")],
]);
export const healthServices: ReadonlyMap<string, ServiceDefinition> = new Map([
  ["v1.DRAResourceHealth", load("dra-health-v1.proto", "v1.DRAResourceHealth")],
  ["v1alpha1.DRAResourceHealth", load("dra-health-v1alpha1.proto", "v1alpha1.DRAResourceHealth")],
]);

function load(file: string, service: string): ServiceDefinition {
  const path = fileURLToPath(new URL(`protos/${file}`, import.meta.url));
  const loaded: PackageDefinition = loadSync(path, { keepCase: true, longs: Number, enums: String, defaults: true });
  return loaded[service] as ServiceDefinition;
}
