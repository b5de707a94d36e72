"""The version of fastlstm."""

VERSION = "0.1.0"
