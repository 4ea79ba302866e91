"""Every call of the contract, from its own descriptors: what is added there is in every test that uses these."""

import importlib
import pkgutil

from google.protobuf.descriptor import MethodDescriptor

import kgrank.v1


def methods() -> list[MethodDescriptor]:
    """Return every method of every service."""
    modules = [importlib.import_module(f"kgrank.v1.{each.name}") for each in pkgutil.iter_modules(kgrank.v1.__path__)]
    files = {module.DESCRIPTOR.name: module.DESCRIPTOR for module in modules if module.__name__.endswith("_pb2")}
    services = [service for _, file in sorted(files.items()) for service in file.services_by_name.values()]
    return [method for service in services for method in service.methods]


def path_of(method: MethodDescriptor) -> str:
    """Return a method's path on the wire."""
    return f"/{method.containing_service.full_name}/{method.name}"
