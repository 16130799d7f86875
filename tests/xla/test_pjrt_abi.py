"""Our declarations of PJRT's C interface have the layout of OpenXLA's header, where that is installed."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from tilewright.codegen.toolchain import default_toolchain
from tilewright.package.native import read_native

#: Our structure, PJRT's, and our field by PJRT's.
LAYOUTS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("pjrt_object_args", "PJRT_Error_Destroy_Args", {"object": "error"}),
    ("pjrt_object_args", "PJRT_Event_Destroy_Args", {"object": "event"}),
    ("pjrt_object_args", "PJRT_Event_Await_Args", {"object": "event"}),
    ("pjrt_object_args", "PJRT_Client_Destroy_Args", {"object": "client"}),
    ("pjrt_object_args", "PJRT_Executable_Destroy_Args", {"object": "executable"}),
    ("pjrt_object_args", "PJRT_LoadedExecutable_Destroy_Args", {"object": "executable"}),
    ("pjrt_object_args", "PJRT_Buffer_Destroy_Args", {"object": "buffer"}),
    ("pjrt_list_args", "PJRT_Error_Message_Args", {"object": "error", "data": "message", "count": "message_size"}),
    (
        "pjrt_list_args",
        "PJRT_Client_PlatformName_Args",
        {"object": "client", "data": "platform_name", "count": "platform_name_size"},
    ),
    (
        "pjrt_list_args",
        "PJRT_Client_PlatformVersion_Args",
        {"object": "client", "data": "platform_version", "count": "platform_version_size"},
    ),
    (
        "pjrt_list_args",
        "PJRT_Client_AddressableDevices_Args",
        {"object": "client", "data": "addressable_devices", "count": "num_addressable_devices"},
    ),
    (
        "pjrt_list_args",
        "PJRT_DeviceDescription_Kind_Args",
        {"object": "device_description", "data": "device_kind", "count": "device_kind_size"},
    ),
    ("pjrt_list_args", "PJRT_Buffer_Dimensions_Args", {"object": "buffer", "data": "dims", "count": "num_dims"}),
    ("pjrt_result_args", "PJRT_Device_GetDescription_Args", {"object": "device", "result": "device_description"}),
    (
        "pjrt_result_args",
        "PJRT_LoadedExecutable_GetExecutable_Args",
        {"object": "loaded_executable", "result": "executable"},
    ),
    ("pjrt_result_args", "PJRT_Executable_NumOutputs_Args", {"object": "executable", "result": "num_outputs"}),
    ("pjrt_number_args", "PJRT_Error_GetCode_Args", {"object": "error", "number": "code"}),
    ("pjrt_number_args", "PJRT_Buffer_ElementType_Args", {"object": "buffer", "number": "type"}),
    ("pjrt_initialize_args", "PJRT_Plugin_Initialize_Args", {}),
    (
        "pjrt_named",
        "PJRT_NamedValue",
        {
            "name": "name",
            "name_size": "name_size",
            "type": "type",
            "integer": "int64_value",
            "value_size": "value_size",
        },
    ),
    (
        "pjrt_create_args",
        "PJRT_Client_Create_Args",
        {
            "options": "create_options",
            "option_count": "num_options",
            "key_value": "kv_get_callback",
            "client": "client",
            "key_value_more": "kv_try_get_callback",
        },
    ),
    (
        "pjrt_program",
        "PJRT_Program",
        {"code": "code", "code_size": "code_size", "format": "format", "format_size": "format_size"},
    ),
    (
        "pjrt_compile_args",
        "PJRT_Client_Compile_Args",
        {
            "client": "client",
            "program": "program",
            "options": "compile_options",
            "options_size": "compile_options_size",
            "loaded": "executable",
        },
    ),
    (
        "pjrt_from_host_args",
        "PJRT_Client_BufferFromHostBuffer_Args",
        {
            "client": "client",
            "data": "data",
            "type": "type",
            "dims": "dims",
            "rank": "num_dims",
            "strides": "byte_strides",
            "stride_count": "num_byte_strides",
            "semantics": "host_buffer_semantics",
            "device": "device",
            "memory": "memory",
            "layout": "device_layout",
            "done": "done_with_host_buffer",
            "buffer": "buffer",
        },
    ),
    (
        "pjrt_layout",
        "PJRT_Buffer_MemoryLayout",
        {
            "tiled.size": "tiled.struct_size",
            "tiled.minor_to_major": "tiled.minor_to_major",
            "tiled.rank": "tiled.minor_to_major_size",
            "tiled.tile_dims": "tiled.tile_dims",
            "tiled.tile_ranks": "tiled.tile_dim_sizes",
            "tiled.tile_count": "tiled.num_tiles",
            "type": "type",
        },
    ),
    (
        "pjrt_to_host_args",
        "PJRT_Buffer_ToHostBuffer_Args",
        {"buffer": "src", "layout": "host_layout", "data": "dst", "bytes": "dst_size", "event": "event"},
    ),
    (
        "pjrt_execute_options",
        "PJRT_ExecuteOptions",
        {
            "send": "send_callbacks",
            "receive": "recv_callbacks",
            "send_count": "num_send_ops",
            "receive_count": "num_recv_ops",
            "launch": "launch_id",
            "kept": "non_donatable_input_indices",
            "kept_count": "num_non_donatable_input_indices",
            "context": "context",
            "location": "call_location",
            "task_count": "num_tasks",
            "tasks": "task_ids",
            "incarnations": "incarnation_ids",
        },
    ),
    (
        "pjrt_execute_args",
        "PJRT_LoadedExecutable_Execute_Args",
        {
            "loaded": "executable",
            "options": "options",
            "arguments": "argument_lists",
            "device_count": "num_devices",
            "argument_count": "num_args",
            "outputs": "output_lists",
            "complete": "device_complete_events",
            "device": "execute_device",
        },
    ),
    (
        "pjrt_serialize_args",
        "PJRT_Executable_Serialize_Args",
        {
            "executable": "executable",
            "bytes": "serialized_bytes",
            "byte_count": "serialized_bytes_size",
            "owner": "serialized_executable",
            "free": "serialized_executable_deleter",
        },
    ),
    (
        "pjrt_deserialize_args",
        "PJRT_Executable_DeserializeAndLoad_Args",
        {
            "client": "client",
            "bytes": "serialized_executable",
            "byte_count": "serialized_executable_size",
            "loaded": "loaded_executable",
            "options": "overridden_serialized_compile_options",
            "options_size": "overridden_serialized_compile_options_size",
        },
    ),
)

#: Our numbers of functions, by PJRT's names.
FUNCTIONS = {
    "PJRT_ERROR_DESTROY": "PJRT_Error_Destroy",
    "PJRT_ERROR_MESSAGE": "PJRT_Error_Message",
    "PJRT_ERROR_CODE": "PJRT_Error_GetCode",
    "PJRT_PLUGIN_INITIALIZE": "PJRT_Plugin_Initialize",
    "PJRT_EVENT_DESTROY": "PJRT_Event_Destroy",
    "PJRT_EVENT_AWAIT": "PJRT_Event_Await",
    "PJRT_CLIENT_CREATE": "PJRT_Client_Create",
    "PJRT_CLIENT_DESTROY": "PJRT_Client_Destroy",
    "PJRT_CLIENT_PLATFORM_NAME": "PJRT_Client_PlatformName",
    "PJRT_CLIENT_PLATFORM_VERSION": "PJRT_Client_PlatformVersion",
    "PJRT_CLIENT_ADDRESSABLE_DEVICES": "PJRT_Client_AddressableDevices",
    "PJRT_CLIENT_COMPILE": "PJRT_Client_Compile",
    "PJRT_CLIENT_BUFFER_FROM_HOST": "PJRT_Client_BufferFromHostBuffer",
    "PJRT_DESCRIPTION_KIND": "PJRT_DeviceDescription_Kind",
    "PJRT_DEVICE_DESCRIPTION": "PJRT_Device_GetDescription",
    "PJRT_EXECUTABLE_DESTROY": "PJRT_Executable_Destroy",
    "PJRT_EXECUTABLE_OUTPUT_COUNT": "PJRT_Executable_NumOutputs",
    "PJRT_EXECUTABLE_SERIALIZE": "PJRT_Executable_Serialize",
    "PJRT_LOADED_DESTROY": "PJRT_LoadedExecutable_Destroy",
    "PJRT_LOADED_EXECUTABLE": "PJRT_LoadedExecutable_GetExecutable",
    "PJRT_LOADED_EXECUTE": "PJRT_LoadedExecutable_Execute",
    "PJRT_DESERIALIZE": "PJRT_Executable_DeserializeAndLoad",
    "PJRT_BUFFER_DESTROY": "PJRT_Buffer_Destroy",
    "PJRT_BUFFER_TYPE": "PJRT_Buffer_ElementType",
    "PJRT_BUFFER_DIMENSIONS": "PJRT_Buffer_Dimensions",
    "PJRT_BUFFER_TO_HOST": "PJRT_Buffer_ToHostBuffer",
}

#: Other numbers: ours by PJRT's.
NUMBERS = {
    "PJRT_MAJOR": "PJRT_API_MAJOR",
    "PJRT_NAMED_INTEGER": "PJRT_NamedValue_kInt64",
    "PJRT_COPIED_IN_CALL": "PJRT_HostBufferSemantics_kImmutableOnlyDuringCall",
    "PJRT_IMMUTABLE_ZERO_COPY": "PJRT_HostBufferSemantics_kImmutableZeroCopy",
    "PJRT_LAYOUT_TILED": "PJRT_Buffer_MemoryLayout_Type_Tiled",
    "8": "PJRT_Error_Code_RESOURCE_EXHAUSTED",
}
TYPES = ("PRED S8 S16 S32 S64 U8 U16 U32 U64 F16 F32 F64 BF16 F8E5M2 F8E4M3FN F8E5M2FNUZ F8E4M3FNUZ F8E8M0FNU").split()


def header() -> str:
    found = importlib.util.find_spec("xla_plugins")
    for folder in found.submodule_search_locations or () if found else ():
        path = Path(folder) / "xla_cpu_pjrt" / "include" / "pjrt_c_api.h"
        if path.exists():
            return path.read_text()
    pytest.skip("SKIPPED: no pjrt_c_api.h is installed (package xla_cpu_pjrt)")


def assertions() -> list[str]:
    lines = []
    for ours, theirs, fields in LAYOUTS:
        lines.append(f"sizeof({ours}) >= {theirs}_STRUCT_SIZE")
        for field, other in {"size": "struct_size", "extensions": "extension_start", **fields}.items():
            lines.append(f"offsetof({ours}, {field}) == offsetof({theirs}, {other})")
            lines.append(f"sizeof((({ours} *)0)->{field}) >= sizeof((({theirs} *)0)->{other})")
    for ours, theirs in FUNCTIONS.items():
        lines.append(f"offsetof(pjrt_api, function) + {ours} * sizeof(pjrt_entry) == offsetof(PJRT_Api, {theirs})")
    lines += [
        "offsetof(pjrt_api, version.major) == offsetof(PJRT_Api, pjrt_api_version.major_version)",
        "offsetof(pjrt_api, version.minor) == offsetof(PJRT_Api, pjrt_api_version.minor_version)",
    ]
    lines += [f"{ours} == (int){theirs}" for ours, theirs in NUMBERS.items()]
    return lines + [f"PJRT_{t} == (int)PJRT_Buffer_Type_{t}" for t in TYPES]


def test_every_structure_and_number_is_compared() -> None:
    text = read_native("pjrt.h")
    structures = set(
        re.findall(r"^\} (pjrt_\w+_args|pjrt_named|pjrt_program|pjrt_layout|pjrt_execute_options);", text, re.M)
    )
    assert structures == {ours for ours, _, _ in LAYOUTS}
    numbers = set(re.findall(r"\b(PJRT_[A-Z0-9_]+)(?=\s*(?:=|,|\n\}))", text))
    numbers |= set(re.findall(r"#define (PJRT_\w+)", text))
    assert numbers == {*FUNCTIONS, *NUMBERS, *(f"PJRT_{t}" for t in TYPES)} - {"8"}


def test_layouts_are_those_of_the_header() -> None:
    checks = "\n".join(f'_Static_assert({line}, "{line}");' for line in assertions())
    text = f'#include <stddef.h>\n#include "pjrt_c_api.h"\n#include "pjrt.h"\n{checks}\n'
    headers = {"pjrt_c_api.h": header(), "pjrt.h": read_native("pjrt.h")}
    default_toolchain().compile(text, ["-std=c11", "-Wno-everything"], headers=headers)
